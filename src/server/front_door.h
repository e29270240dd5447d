// A client before it has a session: its handshake, then the questions that need no device of its own. One object for
// each connection, driven by the supervisor's loop; never blocks.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "server/control.h"
#include "wire/extension.h"
#include "wire/stock.h"

namespace caravan::server {

class FrontDoor {
public:
    // How long a client may take for its handshake, or for the rest of a command that it has begun.
    static constexpr seconds patience{10};

    // At most so many commands are answered by one advance(): a client that sends without end waits for the others.
    static constexpr int commands_at_once = 16;

    // `may_resume`: sessions may outlive their connections.
    FrontDoor(UniqueFd socket, std::string peer, bool may_resume);

    int fd() const { return socket_.get(); }
    const std::string & peer() const { return peer_; }
    TimePoint deadline() const { return deadline_; }

    enum class Wants {
        more,     // nothing now: watch the socket
        memory,   // memory_device() of a device, to be given to answer_memory()
        session,  // a worker: hand over with release()
    };
    // Reads what is there, up to a limit: if more is left, the socket stays readable. `devices`: what the workers announced. `outage`: why the server serves nobody; empty if it
    // does. Error: drop it (Errc::closed: it left by itself).
    Result<Wants> advance(const std::vector<ControlMessage> & devices, std::string_view outage = {});
    // Ends the connection of a client that waits for memory or a session. One that speaks the native dialect is sent
    // `reason` first, and closes the connection itself: call advance() until it fails, or the deadline has passed.
    Result<> refuse(std::string_view reason);
    bool is_refused() const { return !refusal_.empty(); }

    bool is_greeted() const { return greeted_; }
    // Not 0: it wants a link with the session that this belongs to, or to resume it.
    uint64_t token() const { return token_; }
    // What the session that may begin here can be resumed with; 0: it cannot.
    uint64_t session_token() const { return session_token_; }
    // Can the peer resume?
    bool resumes() const { return resumes_; }
    // Wants::session: because of this.
    wire::Command first_command() const;

    uint32_t memory_device() const;
    Result<> answer_memory(uint64_t free, uint64_t total);

    // Wants::session: tells a client that asked for ADMISSION where it is in the queue. Nothing to others.
    Result<> tell_place(const wire::AdmissionAnswer & place);

    // What the worker needs besides the socket.
    ConstBytes prefix() const { return ConstBytes(bytes_).first(size_); }
    UniqueFd release() { return std::move(socket_); }

private:
    Result<bool> fill(size_t size);
    Result<> greet();
    Result<> say_refusal();
    Result<> discard();
    template <class Answer>
    Result<> send_answer(const Answer & payload);
    template <class Answer>
    Result<> answer(const Answer & payload);

    UniqueFd socket_;
    std::string peer_;
    bool greeted_ = false;
    bool is_caravan_ = false;  // has shown that it is one of ours
    bool is_native_ = false;   // and speaks the native dialect, as we do
    std::string refusal_;
    bool refusal_is_sent_ = false, offer_is_declined_ = false;
    const bool may_resume_;
    bool resumes_ = false;
    uint64_t token_ = 0, session_token_ = 0;
    std::array<std::byte, 64> bytes_{};  // of the command that is arriving
    size_t size_ = 0;
    TimePoint deadline_;
};

}  // namespace caravan::server
