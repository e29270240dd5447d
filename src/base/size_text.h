// Sizes as a person reads them.
#pragma once

#include <cstdint>
#include <string>

namespace caravan {

// "17.2 GiB", "50 GiB", "512 MiB", "1.5 KiB", "12 bytes": one decimal if it is not 0.
std::string size_text(uint64_t bytes);

}  // namespace caravan
