// Repeated attempts (base/retry.h).
#pragma once

#include "tunables/units.h"

namespace caravan::tunable {

// Connections that are reset while they are opened are tried again after growing pauses, which add up to about 6.4 s.
inline constexpr int max_attempts = 8;
inline constexpr milliseconds first_retry_pause{50};

}  // namespace caravan::tunable
