#include "server/worker/resumption_table.h"

#include "platform/socket.h"

namespace caravan::server {

void ResumptionTable::add(uint64_t token, net::ResumableTransport & transport) {
    std::lock_guard lock(mutex_);
    streams_[token] = &transport;
}

void ResumptionTable::resume(uint64_t token, std::unique_ptr<net::Transport> connection, const wire::ResumeRequest & request,
                             int socket) {
    std::lock_guard lock(mutex_);
    const auto known = streams_.find(token);
    // take_over() refuses attempts that arrive late.
    if (known != streams_.end() && known->second->take_over(std::move(connection), request) && when_resumed_) {
        when_resumed_(token, platform::duplicate(socket).value_or(UniqueFd()));
    }
}

void ResumptionTable::when_resumed(std::function<void(uint64_t, UniqueFd)> done) {
    std::lock_guard lock(mutex_);
    when_resumed_ = std::move(done);
}

bool ResumptionTable::watch_peer(uint64_t token) {
    std::lock_guard lock(mutex_);
    const auto known = streams_.find(token);
    if (known == streams_.end()) {
        return false;
    }
    known->second->watch_peer(true);
    return true;
}

void ResumptionTable::lifeline_ended(uint64_t token, bool exited) {
    std::lock_guard lock(mutex_);
    const auto known = streams_.find(token);
    if (known == streams_.end()) {
        return;
    }
    known->second->watch_peer(false);
    if (exited) {
        known->second->peer_ended();
    }
}

void ResumptionTable::remove(uint64_t token) {
    std::lock_guard lock(mutex_);
    streams_.erase(token);
}

void ResumptionTable::close() {
    std::lock_guard lock(mutex_);
    streams_.clear();
}

}  // namespace caravan::server
