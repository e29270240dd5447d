// Numbers that nobody can guess.
#pragma once

#include <cstdint>

namespace caravan {

// From the operating system's generator; never 0.
uint64_t random_token();

}  // namespace caravan
