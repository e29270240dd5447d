// Trying again what a reset cut off: a network that loses one connection may well carry the next.
#pragma once

#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

namespace caravan {

// Calls `attempt` until it fails no more with Errc::reset: eight times at most, with pauses of 6.4 s together, and a warning
// after the first of them. Blocks.
template <class Attempt>
auto despite_resets(Attempt && attempt) {
    milliseconds pause{50};
    for (int left = 7;; --left, pause *= 2) {
        auto result = attempt();
        if (result || result.error().code != Errc::reset || left == 0) {
            return result;
        }
        if (left == 3) {
            log_warning("{}: trying again, for another five seconds", result.error().text);
        } else {
            log_debug("{}: trying again in {} ms", result.error().text, pause.count());
        }
        std::this_thread::sleep_for(pause);
    }
}

}  // namespace caravan
