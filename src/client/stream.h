// Commands out, answers in, over one transport, driven by the threads that call: there is no dispatcher thread.
//
// Outgoing bytes collect in a batch until a flush. Answers arrive in the order in which they were expected and land in
// the memory given for them. Whoever waits moves bytes in both directions, so neither side can block on full buffers.
//
// Threads: every function needs the lock of mutex() held. Functions that take the lock give it up while they sleep, so
// that other threads can append and flush meanwhile. Of several waiting threads one watches the transport; the others
// sleep until it reports.
//
// Failure is sticky. Once failure() is set, nothing is sent, what was and is expected is absent, and every wait returns at
// once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "client/stream_counts.h"
#include "net/transport.h"
#include "wire/native.h"

namespace caravan::client {

class Stream {
public:
    using Lock = std::unique_lock<std::mutex>;

    // The number-th answer, to a request that ends at byte `position` of all that was ever queued. number 0: none.
    struct Ticket {
        uint64_t number = 0;
        uint64_t position = 0;
    };

    // Of what it sends or takes while something is awaited, a peer that is slower than this counts as silent: else one that
    // sends a byte now and then would hold its client for ever. GPRS, the slowest network over which anybody would try
    // this, has 1000 bytes a second; the texts and numbers of a handshake and most answers need no rate at all.
    static constexpr uint64_t least_rate = 512;  // bytes a second

    // `silence` is how long the peer may make no progress while something is awaited. It has so long anew whenever an
    // answer begins or ends, or all that was queued has been sent; bytes in between give it the time that they take at
    // least_rate.
    Stream(std::unique_ptr<net::Transport> transport, std::chrono::nanoseconds silence, microseconds spin);

    std::mutex & mutex() { return mutex_; }
    const std::optional<Error> & failure() const { return failure_; }
    std::string_view transport_kind() const { return transport_->kind(); }

    // `size` bytes at the end of the batch, to be filled before the lock is given up. Valid until the next append.
    MutableBytes append(size_t size);

    // Bytes that are still being written by somebody else: a hole in the batch. Their memory stays where it is. Nothing
    // from `begin` (a position not after this one: the start of the message) on is sent before fill(begin).
    void append_hole(uint64_t begin, std::vector<std::byte> bytes);
    void fill(uint64_t begin);

    // What stands in the place of an answer that does not come, in all its bytes. `nan` is for tensors: not a number in
    // every type of floating-point numbers, so nothing that is computed from it looks like a result.
    enum class Absent : uint8_t { zeroes = 0x00, nan = 0xff };

    // An answer of exactly `dest.size()` bytes is to come. `dest` must live until the ticket is done. The server may
    // refuse to answer only if the caller looks at take_refusal() then: zeroes must not pass for an answer.
    Ticket expect(MutableBytes dest, bool may_be_refused = false) { return expect(Awaited{dest, dest.size(), may_be_refused}); }
    // The same of data, which cannot be refused. It is absent too if a launch before it failed.
    Ticket expect_data(MutableBytes dest, Absent absent) { return expect(Awaited{dest, dest.size(), false, true, absent}); }
    // Data whose destination is not known yet. One at a time: set_destination() or discard() follows before anything else is
    // expected or awaited.
    Ticket expect_data_later(size_t size);
    void set_destination(MutableBytes dest, Absent absent);
    void discard();
    bool expects_later() const { return later_ != 0; }
    // A command was appended that the server may report as a failed launch, once: a launch, or a TAKE.
    void note_launch() { ++launches_; }
    Ticket last_ticket() const { return {expected_, expected_position_}; }
    bool is_answered(Ticket ticket) const { return answered_ >= ticket.number; }

    uint64_t position() const { return queued_; }
    size_t unsent() const { return queued_ - sent_; }

    // Until the transport has taken everything before `position`. No hole may be left there.
    Result<> flush(Lock & lock, uint64_t position);
    // The batch, then `payload` from the caller's memory, which is free again when this returns. No hole may be left.
    Result<> send(Lock & lock, ConstBytes payload);
    // Until the answer has arrived. No hole may be left before the ticket's position.
    Result<> await(Lock & lock, Ticket ticket);

    // Until the first bytes of expect_data_later()'s reply have arrived: the server has done everything before it.
    Result<> await_begin(Lock & lock);

    // Checks that the connection is up, as far as this machine knows; not if data arrived within the last millisecond. Waits
    // only if the connection is broken: until it is made again or lost. Call this before reporting a success that depends on
    // the peer.
    Result<> confirm(Lock & lock);
    // How long nothing was sent or awaited.
    std::chrono::nanoseconds idle_time() const;

    // A peer without progress for so long, while it is waited for, is reported in the log, and again when it goes on.
    void note_silences(std::string peer, std::chrono::nanoseconds after) {
        peer_ = std::move(peer);
        note_after_ = after;
    }

    // Sends and waits are traced from now on, as towards this server.
    void trace_as(std::string endpoint) { traced_as_ = std::move(endpoint); }

    // What a native server said instead of the last answer, whose bytes are absent then. Given once.
    std::optional<std::string> take_refusal() { return std::exchange(refusal_, std::nullopt); }
    // Why a launch failed whose success the program was told of. Given once. Data that was asked for before is absent.
    std::optional<std::string> take_launch_failure();
    bool has_launch_failure() const { return launch_failure_.has_value(); }
    void note_launch_failure(std::string text);

    // Ends the stream for a reason found elsewhere.
    void break_off(Error error);

    const StreamCounts & counts() const { return counts_; }

private:
    struct Segment {
        std::vector<std::byte> own;
        ConstBytes external;  // used if own is empty
        size_t sent = 0;
        bool growing = false;  // append may add to it
        ConstBytes rest() const { return (own.empty() ? external : ConstBytes(own)).subspan(sent); }
    };

    template <class Done>
    Result<> pump(Lock & lock, Done done);
    template <class Done>
    Result<> timed_pump(const char * name, uint64_t & ns, Lock & lock, Done done);
    // What one waiting thread has seen of the peer.
    struct Patience {
        TimePoint moved;  // when bytes came or went last
        TimePoint since;  // the peer has `silence_` from then on
        uint64_t moves, bytes, steps;
    };
    Patience begin_patience() const;
    void note_progress(Patience & patience) const;
    TimePoint next_look(const Patience & patience) const;
    void give_up(const Patience & patience);
    void note_silence(TimePoint since);
    void note_end_of_silence();
    bool can_push() const { return sent_ < (holes_.empty() ? queued_ : holes_.front()); }
    bool push();  // true if bytes went out
    bool pull();  // true if bytes came in
    void retire_front();
    Result<size_t> receive(std::span<const MutableBytes> parts);
    Result<size_t> receive_from_transport(std::span<const MutableBytes> parts);
    bool hear_text();
    void hear_unasked();
    struct Awaited {
        MutableBytes dest;
        size_t size = 0;  // of dest; of a reply without a destination, what dest will have
        bool may_be_refused = false;
        bool is_data = false;
        Absent absent = Absent::zeroes;
        std::vector<std::byte> own = {};  // dest of a discarded reply
    };
    Ticket expect(Awaited awaited);
    bool has_destination(const Awaited & awaited) const { return awaited.dest.size() == awaited.size; }
    // The header of the next reply has arrived, and the rest has no destination yet.
    bool is_held_up() const;
    bool hear_launch_failure(const std::string & text);
    static void make_absent(const Awaited & awaited);

    std::mutex mutex_;
    std::condition_variable progress_;
    std::unique_ptr<net::Transport> transport_;
    const std::chrono::nanoseconds silence_;
    const microseconds spin_;
    std::optional<Error> failure_;

    std::deque<Segment> outbox_;
    std::deque<Segment> retired_;  // what was unsent at the failure
    std::vector<std::vector<std::byte>> spare_;  // emptied segments' memory, to be used again
    uint64_t queued_ = 0, sent_ = 0;             // bytes ever
    std::deque<uint64_t> holes_;                 // where they begin, ascending

    std::deque<Awaited> awaited_;
    uint64_t later_ = 0;                 // number of the reply without a destination; 0: none
    uint64_t expected_ = 0, answered_ = 0, expected_position_ = 0;
    uint64_t header_ = 0;   // size field of the answer that is arriving
    size_t arrived_ = 0;    // bytes of it, header included
    std::vector<std::byte> surplus_;  // received into the place of an answer that did not come
    std::optional<std::string> refusal_, launch_failure_;
    uint64_t launches_ = 0, failed_launches_ = 0;
    uint64_t absent_until_ = 0;  // data up to this answer comes from before a launch failure that was taken
    uint64_t last_heard_ns_ = 0, last_used_ns_ = 0;

    bool lending_ = false;     // a payload's memory, to the transport
    bool watched_ = false;     // a thread sleeps on the transport,
    net::Interest watch_;      // for this
    int sleepers_ = 0;      // threads that sleep on progress_
    uint64_t moves_ = 0;    // counts progress, for the time-out
    uint64_t steps_ = 0;    // the same: answers that began or ended, batches that are sent
    std::string peer_;      // for the log
    std::chrono::nanoseconds note_after_{};  // 0: never
    TimePoint silent_since_ = TimePoint::max();  // if the log has it
    StreamCounts counts_;
    uint64_t sends_at_round_trip_ = 0;  // counts_.sends at the last one
    std::string traced_as_;  // empty: it is not
};

}  // namespace caravan::client
