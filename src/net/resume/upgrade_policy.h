// Decides when a stream that used RDMA, lost it and continues over TCP tries to return to RDMA. Pure: the caller passes the
// time. One thread.
#pragma once

#include <functional>

#include "base/clock.h"

namespace caravan::net {

class UpgradePolicy {
public:
    using Jitter = std::function<microseconds(microseconds pause)>;  // the actual pause

    explicit UpgradePolicy(Jitter jitter);

    // The stream continues over a connection. A stream that never used RDMA is not upgraded.
    void on_connected(bool is_rdma, TimePoint now);
    void on_attempt_failed(TimePoint now);

    // no_deadline: no attempt is due.
    TimePoint next_attempt_at() const { return next_attempt_at_; }
    // How long the stream has been without RDMA.
    Clock::duration lost_for(TimePoint now) const { return now - lost_at_; }

private:
    void pause(TimePoint now);

    const Jitter jitter_;
    bool has_rdma_ = false;
    TimePoint gained_at_{}, lost_at_{}, next_attempt_at_ = no_deadline;
    seconds pause_;
};

}  // namespace caravan::net
