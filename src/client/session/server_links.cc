#include "client/session/server_links.h"

namespace caravan::client {

ServerLink ServerLinks::link_from(uint64_t source_id, const std::function<Result<ServerLink>()> & make) {
    const std::lock_guard lock(mutex_);
    if (is_stale_.exchange(false)) {
        links_.clear();
    }
    if (const auto known = links_.find(source_id); known != links_.end()) {
        return known->second;
    }
    return links_[source_id] = make().value_or(ServerLink{});
}

std::vector<std::shared_ptr<Connection>> ServerLinks::sources() {
    std::vector<std::shared_ptr<Connection>> out;
    const std::lock_guard lock(mutex_);
    for (const auto & [id, link] : links_) {
        if (auto source = link.source.lock()) {
            out.push_back(std::move(source));
        }
    }
    return out;
}

}  // namespace caravan::client
