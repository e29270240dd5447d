// A connection without a session: its handshake, then the queries that need no worker of its own. One object for each
// connection, for the supervisor's thread only; never blocks.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "platform/unique_fd.h"
#include "server/ipc/control.h"
#include "wire/extension.h"
#include "wire/stock.h"

namespace caravan::server {

class FrontDoor {
public:
    // Takes ownership of `socket`. `may_resume`: a session over this connection may be resumed.
    FrontDoor(UniqueFd socket, std::string peer, bool may_resume);

    int fd() const { return socket_.get(); }
    const std::string & peer() const { return peer_; }
    TimePoint deadline() const { return deadline_; }

    enum class Wants {
        more,     // more input: poll the socket
        memory,   // the memory of memory_device(), passed to answer_memory()
        session,  // a worker: release() the socket to it
    };
    // Reads and handles a bounded amount of input; the socket stays readable if more is left. `devices`: as reported by a
    // worker. `outage`: why the server refuses sessions; empty if it does not. On an error the caller drops the connection
    // (Errc::closed: the client has closed it).
    Result<Wants> advance(const std::vector<ControlMessage> & devices, std::string_view outage = {});
    // Refuses a client that waits for memory or a session. A client of the native dialect receives `reason` and closes the
    // connection itself: call advance() until it fails or the deadline passes. Returns an error for other clients.
    Result<> refuse(std::string_view reason);
    bool is_refused() const { return !refusal_.empty(); }

    bool is_greeted() const { return greeted_; }
    // The token that the client presented, to open a link with a session or to resume a session or link; 0: none.
    uint64_t token() const { return token_; }
    // The token that resumes the session that may begin over this connection; 0: it cannot be resumed.
    uint64_t session_token() const { return session_token_; }
    // Whether both sides support to resume.
    bool resumes() const { return resumes_; }
    // Whether both sides can share memory, if they are on one machine.
    bool shares_memory() const { return shares_memory_; }
    // Whether both sides have announced the native dialect.
    bool is_native() const { return is_native_; }
    // Wants::session: the command that needs the session.
    wire::Command first_command() const;

    uint32_t memory_device() const;
    Result<> answer_memory(uint64_t free, uint64_t total);

    // Wants::session: sends the position in the queue to a client that requested ADMISSION; does nothing for others.
    // Not while awaits_confirmation().
    Result<> send_position(const wire::AdmissionReply & place);
    bool can_confirm() const { return confirms_; }
    // The client has not yet confirmed the last position. Until then it gets no session, and the socket is to be polled.
    bool awaits_confirmation() const { return awaits_confirmation_; }
    // The client has confirmed the last position, so it was alive then.
    bool is_confirmed() const { return is_confirmed_; }
    // Reads the confirmation. An error as for advance().
    Result<> read_confirmation();

    // Bytes received already, which the worker parses before those of the socket.
    ConstBytes prefix() const { return ConstBytes(bytes_).first(size_); }
    UniqueFd release() { return std::move(socket_); }

private:
    Result<bool> fill(size_t size);
    Result<> greet();
    bool offers_stock_rdma() const;
    Result<> send_refusal();
    Result<> discard();
    template <class Reply>
    Result<> send_reply(const Reply & payload);
    template <class Reply>
    Result<> answer(const Reply & payload);

    UniqueFd socket_;
    std::string peer_;
    bool greeted_ = false;
    bool is_caravan_ = false;  // the peer is a Caravan client
    bool is_native_ = false;   // and both sides speak the native dialect
    bool confirms_ = false;    // both sides have wire::feature_confirm
    bool awaits_confirmation_ = false, is_confirmed_ = false;
    bool wants_stock_rdma_ = false;  // a stock client offers a queue pair: its worker replies to HELLO
    std::string refusal_;
    bool refusal_is_sent_ = false, offer_is_declined_ = false;
    const bool may_resume_;
    bool resumes_ = false, shares_memory_ = false;
    uint64_t token_ = 0, session_token_ = 0;
    // Of the command being received. RDMA_RAILS is the longest that is read here.
    std::array<std::byte, sizeof(wire::RequestHeader) + sizeof(wire::RdmaRails)> bytes_{};
    size_t size_ = 0;
    TimePoint deadline_;
};

}  // namespace caravan::server
