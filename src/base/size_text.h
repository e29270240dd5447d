// Sizes as a person reads them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace caravan {

// The number of bytes that "500M", "1.5G", "50 GiB" or "4096" means; K, M, G and T are powers of 1024. Nothing if it means
// none.
std::optional<uint64_t> parse_size(std::string_view text);

// "17.2 GiB", "50 GiB", "512 MiB", "1.5 KiB", "12 bytes": one decimal if it is not 0.
std::string size_text(uint64_t bytes);

}  // namespace caravan
