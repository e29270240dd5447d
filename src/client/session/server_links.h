// The links from other servers to one server. Each is made once, at the first transfer from its source; a failed attempt is
// remembered. After a failed launch all links are made again, because one of them may have broken.
//
// Threads: any. The mutex is held while a link is made, and is taken before the lock of any stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "net/transport.h"

namespace caravan::client {

class Connection;

struct ServerLink {
    uint64_t token = 0;   // 0: no link
    uint16_t number = 0;  // index among the source's links
    std::weak_ptr<Connection> source;
    net::TransportKind kind = net::TransportKind::tcp;
};

class ServerLinks {
public:
    // The link from the source with this id. Calls `make` if there was no attempt yet; it logs its failure.
    ServerLink link_from(uint64_t source_id, const std::function<Result<ServerLink>()> & make);

    void mark_stale() { is_stale_ = true; }
    // The sources that are still alive.
    std::vector<std::shared_ptr<Connection>> sources();

private:
    std::mutex mutex_;
    std::unordered_map<uint64_t, ServerLink> links_;  // by the source's id
    std::atomic<bool> is_stale_ = false;
};

}  // namespace caravan::client
