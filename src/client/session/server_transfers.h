// Copies from other servers to the server of one session: over a link between the servers, or relayed through this process.
//
// Threads: any. A thread locks one session at a time.
#pragma once

#include <atomic>

#include "client/session/command_queue.h"
#include "client/session/server_links.h"

namespace caravan::client {

class Connection;

class ServerTransfers {
public:
    // `self` is the session that `queue` belongs to.
    explicit ServerTransfers(CommandQueue & queue);

    // Copies in order with both servers' commands. Returns immediately. Uses a link between the servers if there is one (the
    // first call tries to make it and logs the result), else relay().
    void transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                  const Range & to);
    // The same through this process. The bytes are forwarded when a later command needs them.
    void relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
               const Range & to);

    // A link from the source for other uses than transfers.
    Result<ServerLink> open_link(Connection & source) { return make_link(source); }

    // After a failed launch, which may be the consequence of a lost server at the other end of a link: probes the sources of
    // all links, so that such a loss is logged. Call without the lock.
    void probe_sources();

private:
    // On the target.
    Result<ServerLink> make_link(Connection & source);
    // On the source.
    Result<net::TransportKind> connect(const ServerLink & link, const std::string & endpoint);
    bool push(const ServerLink & link, const wire::Region & src, const Range & from);

    CommandQueue & queue_;
    ServerLinks links_;                    // from other servers
    std::atomic<uint16_t> next_link_ = 0;  // number of the next link to another server
    const uint64_t id_;                    // unique in the process
};

}  // namespace caravan::client
