// The worker's side of the port at which rank 0 of a stock client's comm is reached: a confined worker cannot listen, so the
// supervisor (supervisor/comm_listener.h) accepts connections for it, and lets one session at a time have a comm.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "server/ipc/control.h"

namespace caravan::server {

// For the session's thread, except on_reply().
class CommPort {
public:
    using Send = std::function<bool(const ControlMessage & message)>;
    explicit CommPort(Send send) : send_(std::move(send)) {}

    // Errc::unavailable: the server permits no comm, or another session has it.
    Result<> reserve();
    void release();
    // Returns a connection to `port`, or none if none arrives until `deadline`; the next call then goes on waiting.
    // Errc::unavailable if the supervisor cannot or does not listen there.
    Result<UniqueFd> accept(uint32_t port, TimePoint deadline);
    void stop_accepting();

    // Takes the supervisor's reply. Any thread. Drops a connection that is not awaited any more.
    void on_reply(const ControlMessage & reply, UniqueFd connection);

private:
    struct Reply {
        ControlMessage message;
        UniqueFd connection;
    };
    Result<std::optional<Reply>> await(TimePoint deadline);
    Result<> ask(ControlMessage::Step step, uint32_t port);

    const Send send_;
    bool is_accepting_ = false;  // session's thread only
    std::mutex mutex_;
    std::condition_variable changed_;
    uint32_t asked_ = 0;  // number of the last question; its reply is awaited or in reply_
    std::optional<Reply> reply_;
};

}  // namespace caravan::server
