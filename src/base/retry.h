// Trying again what a reset cut off: a network that loses one connection may well carry the next.
#pragma once

#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

namespace caravan {

// From half of `pause` to one and a half: who tries in step with what cuts him off never gets through.
inline microseconds out_of_step(microseconds pause) {
    return pause / 2 + pause * static_cast<int>(random_token() % 1024) / 1024;
}

// Calls `attempt` until it fails no more with Errc::reset: eight times at most, with pauses of about 6.4 s together, and a
// warning after the first of them. Blocks.
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
            log_debug("{}: trying again in about {} ms", result.error().text, pause.count());
        }
        std::this_thread::sleep_for(out_of_step(pause));
    }
}

}  // namespace caravan
