#include "net/rdma/recent_failures.h"

#include <utility>

#include "base/formatted.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {

void RecentFailures::add(const std::string & server, NoRdma why, TimePoint now) {
    std::lock_guard lock(mutex_);
    std::erase_if(failures_, [&](const auto & entry) { return now - entry.second.at >= tunable::rdma_failure_memory; });
    if (failures_.size() < max_servers) {
        failures_.insert_or_assign(server, Failure{std::move(why), now});
    }
}

void RecentFailures::remove(const std::string & server) {
    std::lock_guard lock(mutex_);
    failures_.erase(server);
}

NoRdma RecentFailures::reason(const std::string & server, TimePoint now) const {
    std::lock_guard lock(mutex_);
    const auto failure = failures_.find(server);
    if (failure == failures_.end() || now - failure->second.at >= tunable::rdma_failure_memory) {
        return {};
    }
    if (failure->second.why.reason == Reason::rdma_setting) {
        return failure->second.why;  // to wait does not help
    }
    const auto ago = std::chrono::floor<seconds>(now - failure->second.at), left = tunable::rdma_failure_memory - ago;
    NoRdma why = failure->second.why;
    why.text = formatted("{} ({} s ago; the next session after {} s tries again)", why.text, ago.count(), left.count());
    return why;
}

}  // namespace caravan::net::rdma
