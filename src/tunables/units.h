// Units of the constants in this folder: constants that somebody may want to turn, with their units and reasons, one header a
// module. What the protocol fixes (src/wire) and what a user sets (base/config.h, command lines) is not here; neither are
// bounds on what a peer sends. relations.cc checks relations between constants of several modules.
#pragma once

#include <chrono>
#include <cstddef>

namespace caravan::tunable {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

inline constexpr size_t KiB = 1024, MiB = 1024 * KiB;

}  // namespace caravan::tunable
