// When the next worker process may start, and why none can. Pure: the caller passes the time. One thread.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "base/clock.h"
#include "tunables/supervisor.h"

namespace caravan::server {

class StartFailures {
public:
    // A worker could not be started, or ended before it had loaded. The pauses between attempts double. True: log this cause,
    // because it differs from the last one.
    bool failed(std::string cause, TimePoint now) {
        const bool is_new = cause != cause_;
        cause_ = std::move(cause);
        retry_at_ = now + pause_;
        pause_ = std::min(pause_ * 2, tunable::max_respawn_pause);
        return is_new;
    }
    // A worker has loaded. True: others had failed before it.
    bool started() {
        pause_ = tunable::min_respawn_pause;
        return !std::exchange(cause_, {}).empty();
    }
    // A worker that had loaded died before it got a session. Not a failure to start, but the next start waits, too.
    void spare_died(TimePoint now) { retry_at_ = now + tunable::min_respawn_pause; }

    // Why no worker can be started. Empty: the last one has loaded, or is loading for the first time.
    const std::string & cause() const { return cause_; }
    TimePoint retry_at() const { return retry_at_; }

private:
    std::string cause_;
    seconds pause_ = tunable::min_respawn_pause;
    TimePoint retry_at_ = TimePoint::min();
};

}  // namespace caravan::server
