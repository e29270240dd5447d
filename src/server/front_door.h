// A client before it has a session: its handshake, then the questions that need no device of its own. One object for
// each connection, driven by the supervisor's loop; never blocks.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "server/control.h"

namespace caravan::server {

class FrontDoor {
public:
    // How long a client may take for its handshake, or for the rest of a command that it has begun.
    static constexpr seconds patience{10};

    FrontDoor(UniqueFd socket, std::string peer);

    int fd() const { return socket_.get(); }
    const std::string & peer() const { return peer_; }
    TimePoint deadline() const { return deadline_; }

    enum class Wants {
        more,     // nothing now: watch the socket
        memory,   // memory_device() of a device, to be given to answer_memory()
        session,  // a worker: hand over with release()
    };
    // Reads what is there. `devices`: what the workers announced. Error: drop it (Errc::closed: it left by itself).
    Result<Wants> advance(const std::vector<ControlMessage> & devices);

    // Not 0: it wants a link with the session that gave this out.
    uint64_t token() const { return token_; }

    uint32_t memory_device() const;
    Result<> answer_memory(uint64_t free, uint64_t total);

    // What the worker needs besides the socket.
    ConstBytes prefix() const { return ConstBytes(bytes_).first(size_); }
    UniqueFd release() { return std::move(socket_); }

private:
    Result<bool> fill(size_t size);
    Result<> greet();
    template <class Answer>
    Result<> answer(const Answer & payload);

    UniqueFd socket_;
    std::string peer_;
    bool greeted_ = false;
    bool is_caravan_ = false;  // has shown that it is one of ours
    uint64_t token_ = 0;
    std::array<std::byte, 64> bytes_{};  // of the command that is arriving
    size_t size_ = 0;
    TimePoint deadline_;
};

}  // namespace caravan::server
