// The streams of a worker that survive the loss of their connection, by token: the session's and those of its incoming links.
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "net/resume/resumable_transport.h"
#include "platform/unique_fd.h"

namespace caravan::server {

class ResumptionTable {
public:
    // Connections that present `token` resume `transport`, which must live until close() has returned.
    void add(uint64_t token, net::ResumableTransport & transport);
    // Continues the stream of `token` over `connection`, whose peer has sent `request`. `socket`: the descriptor of the
    // connection, duplicated for on_resumed. Drops the connection if the token is unknown or the attempt is late.
    void resume(uint64_t token, std::unique_ptr<net::Transport> connection, const wire::ResumeRequest & request, int socket);
    // Sets the function that resume() calls after it has resumed the stream of `token`, with a duplicate of the new
    // connection's descriptor. An empty function clears it; no call is in progress when this returns.
    void when_resumed(std::function<void(uint64_t token, UniqueFd connection)> done);

    // A lifeline of the peer of `token` now exists. False: the token is unknown, and the peer opens the lifeline again.
    bool watch_peer(uint64_t token);
    // The lifeline has ended. `exited`: because the peer's process has exited, else because the network broke it.
    void lifeline_ended(uint64_t token, bool exited);

    // Forgets the stream of `token`. No call uses it when this returns.
    void remove(uint64_t token);
    // Forgets all streams. No call uses one when this returns.
    void close();

private:
    std::mutex mutex_;
    std::unordered_map<uint64_t, net::ResumableTransport *> streams_;
    std::function<void(uint64_t, UniqueFd)> when_resumed_;
};

}  // namespace caravan::server
