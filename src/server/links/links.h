// Links between the sessions of two servers, over which one server sends results directly to the other.
//
// The client obtains a random token from one session and passes it to the other, whose worker connects to the first server
// with it. A link has one direction and keeps the order of messages.
//
// A worker destroys only the links of groups that it frees, never its Links: a sender may still be waiting for the network
// when the process exits.
//
// Threads: any thread may call claim(), unclaim(), accept() and limit_silence(), the session's thread calls everything else.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "net/lookup.h"
#include "net/networks.h"
#include "net/opening.h"
#include "net/resume/resumable_transport.h"
#include "net/socket.h"
#include "server/links/link_receiver.h"
#include "server/links/link_sender.h"
#include "server/links/memory_source.h"
#include "tunables/links.h"

namespace caravan::server {

class Links {
public:
    static constexpr size_t max_links = 256;  // of a session, in each direction

    // `announce`: registers a token with the supervisor, which then passes on connections with this token; false if it cannot.
    // `grace`: how long a link may stay disconnected. `networks`: connect() reaches these only. `lookup`: resolves names.
    // `connect_time`: how long connect() takes if it fails.
    Links(std::function<bool(uint64_t token)> announce, seconds grace, net::Networks networks = net::Networks::loopback(),
          net::Lookup lookup = net::addresses_of, milliseconds connect_time = tunable::link_connect_timeout)
        : announce_(std::move(announce)), grace_(grace), networks_(std::move(networks)), lookup_(std::move(lookup)),
          connect_time_(connect_time) {}
    Links(const Links &) = delete;

    // Called by accept() for a link that can be resumed. Set before the first accept().
    std::function<void(uint64_t token, net::ResumableTransport & transport)> on_resumable;
    // Called before a link to this session is destroyed. No connection with this token may arrive afterwards.
    std::function<void(uint64_t token)> on_dropped;

    // Of the memory that links may share with sessions of this machine; null: none. Must outlive the links.
    MemorySource * memory = nullptr;

    // A new token for a link to this session, or 0 if there are too many or it cannot be registered.
    uint64_t invite();
    // True if a link with `token` is expected; then only the caller may open it, with accept(), until it calls unclaim().
    bool claim(uint64_t token);
    void unclaim(uint64_t token);
    // Opens the link of `token`, which was claimed, over a connection that presented it. `resumes`: the peer supports resuming.
    // `shares_memory`: both ends can share memory. Drops the connection if the link has been dropped since.
    void accept(uint64_t token, std::unique_ptr<net::Transport> connection, bool resumes, bool shares_memory = false);
    // The link that was opened with `token`. Waits for it up to 10 s, then returns null. Null at once for an unknown token.
    LinkReceiver * receiver(uint64_t token);

    // Opens link number `link` to the server at `endpoint` and returns the transport's kind. Every failure to
    // connect returns the same text after the same time, so that clients cannot scan ports and names; the reason is logged.
    // `rdma_wait`: as for net::open_link().
    Result<net::TransportKind> connect(uint16_t link, uint64_t token, const std::string & endpoint,
                                       milliseconds rdma_wait = milliseconds(0));
    // Null if there is no such link.
    LinkSender * sender(uint16_t link);
    // Close a link for good, if it exists. Its data in flight is delivered. Nothing may use the link any more.
    void drop_receiver(uint64_t token);
    void drop_sender(uint16_t link) { senders_.erase(link); }
    // How long the other end of a link may be silent while the session waits for its message; 0: no limit. Thread-safe.
    void limit_silence(milliseconds limit);
    // Bytes queued for other servers.
    size_t backlog() const { return backlog_bytes_; }

private:
    Result<net::OpenedLink> open_link(const net::Endpoint & endpoint, uint64_t token, TimePoint deadline,
                                      milliseconds rdma_wait) const;

    const std::function<bool(uint64_t)> announce_;
    const seconds grace_;
    const net::Networks networks_;
    const net::Lookup lookup_;
    const milliseconds connect_time_;
    std::atomic<size_t> backlog_bytes_ = 0;  // of all senders
    std::unordered_map<uint16_t, std::unique_ptr<LinkSender>> senders_;
    std::mutex mutex_;  // guards the members below
    std::unordered_map<uint64_t, std::unique_ptr<LinkReceiver>> receivers_;  // null: token issued, not connected yet
    std::unordered_set<uint64_t> claimed_;  // tokens
    std::condition_variable connected_;
    milliseconds silence_limit_{0};
};

}  // namespace caravan::server
