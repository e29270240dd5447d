// Links between the sessions of two servers, over which one sends its results straight to the other.
//
// The client asks one session for a token and gives it to the other, whose worker connects to the first one's server
// with it. Nobody else knows the token, which is random. A link has one direction; what is sent arrives
// in the order of sending.
//
// A worker never destroys its Peers: a sender may be waiting for a network when the session, and with it the process,
// ends. It closes them before it destroys what they keep.
//
// Threads: arrived() comes from another one than the session's, everything else is called by the session's.
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
#include "net/handshake.h"
#include "net/inbound.h"
#include "net/lookup.h"
#include "net/networks.h"
#include "net/resumable.h"
#include "net/socket.h"
#include "wire/native.h"

namespace caravan::server {

// The sending end. What the network does not take at once is kept, and sent by a thread of its own, so that two
// sessions that send to each other do not wait for each other.
class PeerSender {
public:
    // `backlog`: the bytes that all senders of the session keep.
    PeerSender(std::unique_ptr<net::Transport> transport, std::atomic<size_t> & backlog);
    // Waits for the network to take what is being sent, a minute at most. What is kept is not sent.
    ~PeerSender();

    // A message of `size` bytes, which then go to send().
    Result<> begin(uint64_t size);
    Result<> send(ConstBytes bytes);
    // True once after it has failed: for the log.
    bool first_failure() { return !std::exchange(said_, true); }

private:
    void work();
    bool has_room() const;

    const std::unique_ptr<net::Transport> transport_;
    std::atomic<size_t> & all_backlog_bytes_;
    uint64_t next_ = 0;
    bool said_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::vector<std::byte>> backlog_;
    size_t backlog_bytes_ = 0;
    bool sending_ = false;  // the thread has taken something that is not sent yet
    std::optional<Error> error_;
    std::thread thread_;
};

// The receiving end.
class PeerReceiver {
public:
    explicit PeerReceiver(std::unique_ptr<net::Transport> transport);

    // Waits for the next message, which must have `size` bytes: they are the next ones of bytes().
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

    static constexpr size_t max_arrivals = 2 * max_links;  // handshakes at the same time

    // `announce` makes the server pass connections that come with this token to arrived().
    // `grace`: for a link whose connection broke.
    // `links`: where connect() may lead. `lookup`: finds out what names mean.
    Peers(std::function<bool(uint64_t token)> announce, seconds grace, net::Networks links = net::Networks::loopback(),
          net::Lookup lookup = net::addresses_of)
        : announce_(std::move(announce)), grace_(grace), links_(std::move(links)), lookup_(std::move(lookup)) {}
    ~Peers() { close(); }
    Peers(const Peers &) = delete;

    // A token, 0 if there can be none.
    uint64_t invite();
    // A connection that came with a token, for a link, or to resume one or the session: the rest of its handshake is
    // done in a thread of its own. `resumes`: its peer can resume.
    void arrived(uint64_t token, UniqueFd socket, std::vector<std::byte> first, bool resumes);
    // Breaks off the handshakes of arrived(), joins their threads (a handshake ends within its own deadlines), and drops
    // later arrivals. No thread uses what keep() was given when this returns.
    void close();
    // What is called, by a thread of arrived(), with a descriptor of the connection over which the session or link of `token`
    // goes on from now on. Empty: nothing any more, and no call is under way when this returns.
    void when_resumed(std::function<void(uint64_t token, UniqueFd connection)> done);
    // Who comes with `token` resumes this, which lives until close() has returned.
    void keep(uint64_t token, net::ResumableTransport & transport);
    // Null if nobody is waited for with that token.
    net::ResumableTransport * kept(uint64_t token);
    // Null if nobody comes with it, which is waited for.
    PeerReceiver * receiver(uint64_t token);

    // The transport's kind. A failure's text and time do not depend on its reason, which is logged: clients do not learn
    // which ports and names exist here.
    Result<std::string> connect(uint16_t link, uint64_t token, const std::string & endpoint);
    PeerSender * sender(uint16_t link);
    // Bytes that are kept for other servers, which have not taken them yet.
    size_t backlog() const { return backlog_bytes_; }

private:
    // A connection whose handshake is under way.
    struct Arrival {
        UniqueFd socket;  // a duplicate, to break it off; none when it is over
        bool is_over = false;
        std::thread thread;
    };

    Result<std::unique_ptr<net::Transport>> reach(const net::Endpoint & endpoint, uint64_t token, TimePoint deadline) const;
    void came(uint64_t token, net::Comer comer, bool resumes, int socket);  // with mutex_ held

    const std::function<bool(uint64_t)> announce_;
    const seconds grace_;
    const net::Networks links_;
    const net::Lookup lookup_;
    std::atomic<size_t> backlog_bytes_ = 0;  // of all senders
    std::unordered_map<uint16_t, std::unique_ptr<PeerSender>> senders_;
    std::mutex mutex_;  // guards what follows
    std::unordered_map<uint64_t, std::unique_ptr<PeerReceiver>> receivers_;  // null: invited, not here yet
    std::unordered_map<uint64_t, net::ResumableTransport *> resumable_;
    std::function<void(uint64_t, UniqueFd)> when_resumed_;
    std::list<Arrival> arrivals_;
    bool closed_ = false;
    std::condition_variable came_;
};

}  // namespace caravan::server
