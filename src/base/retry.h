// Retries after a connection reset: a network that breaks one connection may carry the next.
#pragma once

#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "tunables/retry.h"

namespace caravan {

// A random duration from half of `pause` to one and a half, so that retries do not stay in step with a periodic fault.
inline microseconds jittered(microseconds pause) {
    return pause / 2 + pause * static_cast<int>(random_token() % 1024) / 1024;
}

// Calls `attempt` until it succeeds or fails with anything but Errc::reset, at most eight times. The pauses add up to about
// 6.4 s. Logs one warning, after the fifth failure. Blocks.
template <class Attempt>
auto retry_after_reset(Attempt && attempt) {
    milliseconds pause = tunable::first_retry_pause;
    for (int left = tunable::max_attempts - 1;; --left, pause *= 2) {
        auto result = attempt();
        if (result || result.error().code != Errc::reset || left == 0) {
            return result;
        }
        if (left == 3) {
            log_warning("{}: retrying for about 5 s", result.error().text);
        } else {
            log_debug("{}: retrying in about {} ms", result.error().text, pause.count());
        }
        std::this_thread::sleep_for(jittered(pause));
    }
}

}  // namespace caravan
