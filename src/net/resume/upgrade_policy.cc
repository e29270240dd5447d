#include "net/resume/upgrade_policy.h"

#include <algorithm>

#include "tunables/resume.h"

namespace caravan::net {

UpgradePolicy::UpgradePolicy(Jitter jitter) : jitter_(std::move(jitter)), pause_(tunable::min_upgrade_pause) {}

void UpgradePolicy::on_connected(bool is_rdma, TimePoint now) {
    if (is_rdma) {
        if (!has_rdma_) {
            gained_at_ = now;
        }
        next_attempt_at_ = no_deadline;
    } else if (has_rdma_) {
        if (now - gained_at_ > tunable::upgrade_min_lifetime) {
            pause_ = tunable::min_upgrade_pause;
        }
        lost_at_ = now;
        pause(now);
    }
    has_rdma_ = is_rdma;
    had_rdma_ = had_rdma_ || is_rdma;
}

void UpgradePolicy::on_attempt_failed(TimePoint now) {
    if (had_rdma_) {
        pause(now);
    } else {
        next_attempt_at_ = no_deadline;
    }
}

void UpgradePolicy::request(TimePoint now) {
    if (!has_rdma_) {
        next_attempt_at_ = now;
    }
}

void UpgradePolicy::pause(TimePoint now) {
    next_attempt_at_ = now + jitter_(pause_);
    pause_ = std::min(2 * pause_, tunable::max_upgrade_pause);
}

}  // namespace caravan::net
