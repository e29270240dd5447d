// Unpredictable numbers.
#pragma once

#include <cstdint>

namespace caravan {

// From the random number generator of the operating system. Never 0. Thread-safe.
uint64_t random_token();

}  // namespace caravan
