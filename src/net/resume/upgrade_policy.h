// Decides when a stream that uses TCP tries to use RDMA: once on request, and repeatedly after it has lost RDMA. Pure: the
// caller passes the time. One thread.
#pragma once

#include <functional>

#include "base/clock.h"

namespace caravan::net {

class UpgradePolicy {
public:
    using Jitter = std::function<microseconds(microseconds pause)>;  // the actual pause

    explicit UpgradePolicy(Jitter jitter);

    // An attempt is due now. A stream that has never used RDMA does not try again if that fails.
    void request(TimePoint now);
    // The stream continues over a connection.
    void on_connected(bool is_rdma, TimePoint now);
    void on_attempt_failed(TimePoint now);
    // An attempt was made in vain for another reason than RDMA.
    void on_interrupted(TimePoint now) { pause(now); }

    // Whether the stream has ever used RDMA.
    bool had_rdma() const { return had_rdma_; }

    // no_deadline: no attempt is due.
    TimePoint next_attempt_at() const { return next_attempt_at_; }
    // How long the stream has been without RDMA.
    Clock::duration lost_for(TimePoint now) const { return now - lost_at_; }

private:
    void pause(TimePoint now);

    const Jitter jitter_;
    bool has_rdma_ = false, had_rdma_ = false;
    TimePoint gained_at_{}, lost_at_{}, next_attempt_at_ = no_deadline;
    seconds pause_;
};

}  // namespace caravan::net
