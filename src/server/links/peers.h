// Links between the sessions of two servers, over which one server sends results directly to the other.
//
// The client obtains a random token from one session and passes it to the other, whose worker connects to the first server
// with it. A link has one direction and keeps the order of messages.
//
// A worker closes its Peers before it destroys the transports that they refer to, but never destroys the Peers: a sender
// may still be waiting for the network when the process exits.
//
// Threads: the session's thread calls everything except accept(), which the thread that receives the supervisor's messages
// calls.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "net/inbound.h"
#include "net/lookup.h"
#include "net/networks.h"
#include "net/resume/resumable_transport.h"
#include "net/server_handshake.h"
#include "net/socket.h"
#include "wire/native.h"

namespace caravan::server {

// The sending end of a link. Bytes that the network does not accept at once are queued and sent by a thread of the sender, so
// that two sessions that send to each other cannot deadlock.
class PeerSender {
public:
    // `backlog`: bytes queued by all senders of the session; must outlive this.
    PeerSender(std::unique_ptr<net::Transport> transport, std::atomic<size_t> & backlog);
    // Waits up to a minute for the piece that is being sent. Drops the queued bytes.
    ~PeerSender();

    // Begins a message of `size` bytes, which the caller then passes to send(). Blocks while too many bytes are queued.
    // Fails once the link is broken.
    Result<> begin(uint64_t size);
    Result<> send(ConstBytes bytes);
    // True on the first call only, so that a failure is logged once.
    bool first_failure() { return !std::exchange(failure_logged_, true); }

private:
    void work();
    bool has_room() const;

    const std::unique_ptr<net::Transport> transport_;
    std::atomic<size_t> & all_backlog_bytes_;
    uint64_t next_ = 0;
    bool failure_logged_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::vector<std::byte>> backlog_;
    size_t backlog_bytes_ = 0;
    bool sending_ = false;  // the thread is sending a piece that is no longer in backlog_
    std::optional<Error> error_;
    std::thread thread_;
};

// The receiving end of a link.
class PeerReceiver {
public:
    explicit PeerReceiver(std::unique_ptr<net::Transport> transport);

    // Waits for the next message, which must have `size` bytes; read them from bytes(). Errc::unavailable if the link broke
    // or the other server could not compute the bytes, Errc::protocol if number or size are wrong.
    Result<> begin(uint64_t size);
    net::Inbound & bytes() { return in_; }

private:
    const std::unique_ptr<net::Transport> transport_;
    net::Inbound in_;
    uint64_t next_ = 0;
};

class Peers {
public:
    static constexpr size_t max_links = 256;  // of a session, in each direction

    static constexpr size_t max_arrivals = 2 * max_links;  // concurrent handshakes

    // `announce`: registers a token with the supervisor, which then passes connections with this token to accept(); false
    // if it cannot. `grace`: how long a link may stay disconnected. `links`: the networks that connect() may reach.
    // `lookup`: resolves names.
    Peers(std::function<bool(uint64_t token)> announce, seconds grace, net::Networks links = net::Networks::loopback(),
          net::Lookup lookup = net::addresses_of)
        : announce_(std::move(announce)), grace_(grace), links_(std::move(links)), lookup_(std::move(lookup)) {}
    ~Peers() { close(); }
    Peers(const Peers &) = delete;

    // A new token for a link to this session, or 0 if there are too many or it cannot be registered.
    uint64_t invite();
    // Takes a connection that presented `token`, to open a link or to resume a link or the session. Completes the handshake
    // on a new thread. `first`: bytes that were already received. `resumes`: the peer supports resuming. Drops the
    // connection after close() or if there are too many handshakes.
    void accept(uint64_t token, UniqueFd socket, std::vector<std::byte> first, bool resumes);
    // Aborts the handshakes of accept() and joins their threads, within the handshake's deadlines. When this returns, no thread
    // uses a transport that was passed to register_resumable().
    void close();
    // Sets the function that a thread of accept() calls after the session or link of `token` was resumed, with a duplicate
    // descriptor of the new connection. An empty function clears it; no call is in progress when this returns.
    void when_resumed(std::function<void(uint64_t token, UniqueFd connection)> done);
    // Connections that present `token` resume `transport`, which must live until close() has returned.
    void register_resumable(uint64_t token, net::ResumableTransport & transport);
    // The transport that connections with `token` resume, or null.
    net::ResumableTransport * resumable(uint64_t token);
    // The link that was opened with `token`. Waits for it up to 10 s, then returns null. Null at once for an unknown token.
    PeerReceiver * receiver(uint64_t token);

    // Opens link number `link` to the server at `endpoint` and returns the transport's kind, "tcp" or "rdma". Every failure to
    // connect returns the same text after the same time, so that clients cannot scan ports and names; the reason is logged.
    Result<std::string> connect(uint16_t link, uint64_t token, const std::string & endpoint);
    // Null if there is no such link.
    PeerSender * sender(uint16_t link);
    // Bytes queued for other servers.
    size_t backlog() const { return backlog_bytes_; }

private:
    // A connection whose handshake is in progress.
    struct Arrival {
        UniqueFd socket;  // a duplicate, to abort the handshake; none when it is over
        bool is_over = false;
        std::thread thread;
    };

    Result<std::unique_ptr<net::Transport>> open_link(const net::Endpoint & endpoint, uint64_t token, TimePoint deadline) const;
    void add_connection(uint64_t token, net::TokenConnection comer, bool resumes, int socket);  // with mutex_ held

    const std::function<bool(uint64_t)> announce_;
    const seconds grace_;
    const net::Networks links_;
    const net::Lookup lookup_;
    std::atomic<size_t> backlog_bytes_ = 0;  // of all senders
    std::unordered_map<uint16_t, std::unique_ptr<PeerSender>> senders_;
    std::mutex mutex_;  // guards the members below
    std::unordered_map<uint64_t, std::unique_ptr<PeerReceiver>> receivers_;  // null: token issued, not connected yet
    std::unordered_map<uint64_t, net::ResumableTransport *> resumable_;
    std::function<void(uint64_t, UniqueFd)> when_resumed_;
    std::list<Arrival> arrivals_;
    bool closed_ = false;
    std::condition_variable connected_;
};

}  // namespace caravan::server
