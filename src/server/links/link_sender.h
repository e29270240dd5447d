#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "net/transport.h"

namespace caravan::server {

// The sending end of a link. Bytes that the network does not accept at once are queued and sent by a thread of the sender, so
// that two sessions that send to each other cannot deadlock.
class LinkSender {
public:
    // `backlog`: bytes queued by all senders of the session; must outlive this.
    // `shares_memory`: both ends can share memory.
    LinkSender(std::unique_ptr<net::Transport> transport, std::atomic<size_t> & backlog, bool shares_memory = false);
    // Waits up to a minute for the piece that is being sent. Drops the queued bytes.
    ~LinkSender();

    // Begins a message of `size` bytes, which the caller then passes to send(). Blocks while too many bytes are queued.
    // Fails once the link is broken.
    Result<> begin(uint64_t size);
    Result<> send(ConstBytes bytes);
    // The transport, for use in both directions, if nothing was sent yet. Null otherwise, and the second time. Afterwards
    // begin() fails. This object still owns it.
    net::Transport * take_over();
    bool shares_memory() const { return shares_memory_; }
    // True on the first call only, so that a failure is logged once.
    bool first_failure() { return !std::exchange(failure_logged_, true); }

private:
    void work();
    bool has_room() const;

    const std::unique_ptr<net::Transport> transport_;
    std::atomic<size_t> & all_backlog_bytes_;
    const bool shares_memory_;
    uint64_t next_ = 0;
    bool failure_logged_ = false;
    bool is_taken_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::vector<std::byte>> backlog_;
    size_t backlog_bytes_ = 0;
    bool sending_ = false;  // the thread is sending a piece that is no longer in backlog_
    std::optional<Error> error_;
    std::thread thread_;
};

}  // namespace caravan::server
