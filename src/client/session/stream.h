// Sends commands and receives replies over one transport. The calling threads do the I/O: there is no dispatcher thread.
//
// Outgoing bytes collect in a batch until a flush. Replies arrive in the order in which they were expected, and are received
// into the memory given for them. A waiting thread moves bytes in both directions, so full buffers cannot deadlock.
//
// Threads: every function requires the lock of mutex(). Functions with a Lock argument release it while they sleep, so that
// other threads can append and flush. Of several waiting threads one watches the transport; it wakes the others.
//
// Failure is sticky. Once failure() is set, nothing is sent, all expected replies are absent, and every wait returns
// immediately.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "client/session/outbox.h"
#include "client/session/reply_reader.h"
#include "client/session/stream_counts.h"
#include "net/polling.h"
#include "net/transport.h"
#include "tunables/client.h"
#include "wire/native.h"

namespace caravan::client {

class Stream {
public:
    using Lock = std::unique_lock<std::mutex>;

    // Reply number `number` (from 1; 0: none), to a request that ends at byte `position` of the outgoing stream.
    struct Ticket {
        uint64_t number = 0;
        uint64_t position = 0;
    };

    // A peer that transfers less than this while a thread waits counts as stalled: a trickle of single bytes must not hold the
    // client for ever. GPRS, the slowest network in use, has 1000 bytes a second.
    static constexpr uint64_t min_rate = tunable::min_rate;  // bytes a second

    // `timeout` is how long the peer may make no progress while a thread waits. It starts again whenever a reply begins or
    // ends, or the batch has been sent; bytes in between extend it by the time that they take at min_rate.
    Stream(std::unique_ptr<net::Transport> transport, std::chrono::nanoseconds timeout, net::Polling polling);

    std::mutex & mutex() { return mutex_; }
    const std::optional<Error> & failure() const { return failure_; }
    net::TransportKind transport_kind() const { return transport_->kind(); }
    uint32_t queue_pairs() const { return transport_->queue_pairs(); }
    uint32_t replacements() const { return transport_->replacements(); }
    // As Transport's. Without the lock.
    void begin_upgrade(std::function<void(const Error * why_not)> done) { transport_->begin_upgrade(std::move(done)); }
    void await_upgrade(TimePoint deadline) { transport_->await_upgrade(deadline); }

    // `size` bytes at the end of the batch. Fill them before releasing the lock. Valid until the next append.
    MutableBytes append(size_t size) { return outbox_.append(size); }
    // Copies these bytes to the end of the batch.
    void append(ConstBytes bytes) { std::memcpy(append(bytes.size()).data(), bytes.data(), bytes.size()); }

    // Appends a hole: bytes that another connection is still receiving. Their memory is not moved. Nothing from `begin` (the
    // position of the message's header) on is sent before fill(begin).
    void append_hole(uint64_t begin, std::vector<std::byte> bytes) { outbox_.append_hole(begin, std::move(bytes)); }
    void fill(uint64_t begin) { outbox_.fill(begin); }

    using Absent = ReplyReader::Absent;

    // Expects a reply of exactly `dest.size()` bytes. `dest` must live until the ticket is done. Set `may_be_refused` only if
    // the caller checks take_refusal() afterwards: zeroes must not pass for a reply.
    Ticket expect(MutableBytes dest, bool may_be_refused = false) { return expect({dest, dest.size(), may_be_refused}); }
    // The same for tensor data, which cannot be refused. It is absent too if an earlier launch failed.
    Ticket expect_data(MutableBytes dest, Absent absent) { return expect({dest, dest.size(), false, true, absent}); }
    // Expects tensor data whose destination is not known yet. One at a time: call set_destination() or discard() before
    // anything else is expected or awaited.
    Ticket expect_deferred(size_t size);
    void set_destination(MutableBytes dest, Absent absent);
    void discard();
    bool has_deferred() const { return replies_.deferred() != 0; }
    // Counts a command that the server may report as a failed launch once: a launch, or a TAKE.
    void count_launch() { replies_.count_launch(); }
    Ticket last_ticket() const { return {replies_.expected(), expected_position_}; }
    bool is_done(Ticket ticket) const { return replies_.completed() >= ticket.number; }

    uint64_t position() const { return outbox_.queued(); }
    size_t unsent() const { return outbox_.queued() - outbox_.sent(); }

    // These block until done, and fail with failure(): Errc::timed_out after a stall, Errc::protocol for a malformed reply,
    // else the transport's error.
    //
    // Until the transport has accepted everything before `position`. No hole may remain there.
    Result<> flush(Lock & lock, uint64_t position);
    // Sends the batch, then `payload` from the caller's memory, which may be reused afterwards. No hole may remain.
    Result<> send(Lock & lock, ConstBytes payload);
    // Until the reply has arrived. No hole may remain before the ticket's position.
    Result<> await(Lock & lock, Ticket ticket);
    // Until the reply of expect_deferred() begins to arrive: the server has executed all earlier commands.
    Result<> await_first_bytes(Lock & lock);

    // Checks that the connection is up, as far as this machine knows, unless data arrived within the last millisecond. Blocks
    // only while the connection is broken, until it is resumed or lost. Call this before reporting a success that depends on
    // the peer.
    Result<> confirm(Lock & lock);
    // Time since something was last sent or awaited.
    std::chrono::nanoseconds idle_time() const;

    // Sends and receives what is possible without waiting. Returns after which time to do it again, if nothing else happens.
    std::chrono::nanoseconds advance();
    // `advance` is called without the lock before a thread sleeps here, and again after the time that it returns: it advances
    // other streams whose servers the peer may wait for.
    void set_before_sleep(std::function<std::chrono::nanoseconds()> advance) { before_sleep_ = std::move(advance); }

    // Logs a stall of this length while a thread waits, and its end.
    void log_stalls(std::string peer, std::chrono::nanoseconds after) {
        peer_ = std::move(peer);
        stall_threshold_ = after;
    }

    // Adds later sends and waits to the trace, under this endpoint.
    void trace_as(std::string endpoint) { traced_as_ = std::move(endpoint); }

    // Why the server refused the last request; the reply's bytes are absent then. Returned once.
    std::optional<std::string> take_refusal() { return replies_.take_refusal(); }
    // Why a launch failed that was reported as successful. Returned once. Data requested before this call is absent.
    std::optional<std::string> take_launch_failure() { return replies_.take_launch_failure(); }
    bool has_launch_failure() const { return replies_.has_launch_failure(); }
    void set_launch_failure(std::string text) { replies_.set_launch_failure(std::move(text)); }

    // Fails the stream with this error. Does nothing if it has failed already.
    void close(Error error);

    const StreamCounts & counts() const { return counts_; }

private:
    template <class Done>
    Result<> pump(Lock & lock, Done done);
    template <class Done>
    Result<> timed_pump(const char * name, uint64_t & ns, Lock & lock, Done done);
    // The progress that one waiting thread has seen. The counters are those of the stream at the last update.
    struct ProgressWatch {
        TimePoint moved;  // last transfer of bytes
        TimePoint since;  // start of the current time-out
        uint64_t transfers, bytes, milestones;
    };
    ProgressWatch start_watch() const;
    void update_watch(ProgressWatch & watch) const;
    TimePoint next_deadline(const ProgressWatch & watch) const;
    void time_out(const ProgressWatch & watch);
    void log_stall(TimePoint since);
    void log_stall_end();
    bool move();
    bool push();  // true if bytes were sent
    bool pull();  // true if bytes were received
    Result<size_t> receive(std::span<const MutableBytes> parts);
    Ticket expect(ReplyReader::PendingReply reply);
    uint64_t milestones() const { return batches_ + replies_.milestones(); }

    std::mutex mutex_;
    std::condition_variable progress_;
    std::unique_ptr<net::Transport> transport_;
    const std::chrono::nanoseconds timeout_;
    net::Polling polling_;
    std::optional<Error> failure_;

    Outbox outbox_;
    ReplyReader replies_;
    uint64_t expected_position_ = 0;
    uint64_t last_received_ns_ = 0, last_used_ns_ = 0;

    bool lending_ = false;      // the transport may read a payload's memory
    bool watched_ = false;      // a thread sleeps on the transport,
    net::Interest watch_;       // waiting for this
    int waiting_threads_ = 0;   // threads that sleep on progress_
    uint64_t transfers_ = 0;    // calls that moved bytes, for the time-out
    uint64_t batches_ = 0;      // batches that were sent, for the time-out
    std::string peer_;          // for the log
    std::chrono::nanoseconds stall_threshold_{};  // 0: stalls are not logged
    TimePoint stalled_since_ = TimePoint::max();  // set while a logged stall lasts
    StreamCounts counts_;
    uint64_t sends_at_round_trip_ = 0;  // counts_.sends at the last one
    std::string traced_as_;  // empty: not traced
    std::function<std::chrono::nanoseconds()> before_sleep_;
};

}  // namespace caravan::client
