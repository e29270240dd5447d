// One rank's side of all-reduce: a group of sessions, each on another server, that add up tensors.
//
// All ranks add the same values in the same order (sums.h), so all hold the same bits, whichever algorithm they use:
//   direct    each rank sends its tensor to all others: one step
//   doubling  partners exchange their sums: log2(n) steps, fewest messages for many ranks
//   scatter   each rank adds up its part of the tensor, and sends the sum to all others: two steps, fewest bytes
// With three or more ranks, the first reduction measures all of them for some sizes; the fastest in the sum over all ranks
// is used from then on.
//
// Used by the session's thread only.
#pragma once

#include <array>
#include <atomic>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/links/exchange.h"
#include "server/links/memory_sharing.h"
#include "tunables/links.h"

namespace caravan::server {

using wire::Algorithm;
using wire::n_algorithms;

class ReductionGroup {
public:
    // `links`: by rank; null for this one. They must outlive the group.
    // `patience`: how long nothing may move in a reduction. Ranks compute between reductions, each for about as long.
    // `algorithm`: instead of measuring; the same on all ranks. `leave_time`: how long a rank that fails goes on sending a
    // message that it began. `framing`: bare only for two ranks whose data is always valid.
    ReductionGroup(size_t rank, const std::vector<net::Transport *> & links, milliseconds patience,
                   std::optional<Algorithm> algorithm = std::nullopt,
                   milliseconds leave_time = tunable::reduction_leave_timeout, Framing framing = Framing::headers);

    // The first reduction agrees with these ranks, which have to do the same, on shared memory. `source` must outlive the
    // group.
    void share_memory_with(std::vector<SharingRank> ranks, MemorySource & source);
    // The number of ranks that are reached through shared memory.
    size_t sharing() const;

    // Replaces `data` by its sum over all ranks, which must call this with as many elements. `is_valid`: false if this rank
    // could not compute its data. `precision`: of what is sent, the same on all ranks; the result is rounded to it too with
    // three or more ranks. Fails with Errc::unavailable if another rank could not compute its data, and for ever once a link
    // has broken or a rank has left; `data` is undefined then. Returns early if `is_cancelled`.
    Result<> reduce(std::span<float> data, bool is_valid, wire::Precision precision, const std::atomic<bool> & is_cancelled);

    // Reports the phases of each later reduction; an empty observer ends that.
    void observe(Exchange::Observer observer) { exchange_.observe(std::move(observer)); }

    // As for Exchange.
    void interrupt_by(Exchange::Interrupt interrupt) { exchange_.interrupt_by(std::move(interrupt)); }

    // Leaves the group: this rank cannot take part in the next reduction. It fails at the others, as every later one.
    void leave(Error error);

    // Bytes of memory that the group keeps for reductions of up to `bytes` bytes.
    uint64_t memory_for(uint64_t bytes, wire::Precision precision) const;

    size_t size() const { return n_ranks_; }
    size_t rank() const { return rank_; }
    // That of reductions of this size with full precision. Empty until it is known.
    std::optional<Algorithm> algorithm(uint64_t bytes) const;
    // The algorithm for each size, for the log. Empty until it is known.
    std::string choice() const;

private:
    struct Call;  // of reduce()

    Result<> measure(const std::atomic<bool> & is_cancelled);
    Algorithm algorithm_for(size_t bytes) const;
    Result<> run(Algorithm algorithm, Call & call);
    Result<> run_direct(Call & call);
    Result<> run_doubling(Call & call);
    Result<> run_scatter(Call & call);
    Result<> step(Call & call, size_t size, bool overwrites, const Exchange::Consumer & consume);
    void sum_windows(const Call & call, std::span<float> own, size_t begin);
    Peer & peer(size_t rank);

    const size_t rank_, n_ranks_;
    const bool is_fixed_;  // the algorithm
    std::vector<Peer> peers_;
    std::vector<Transfer> transfers_;  // of the current step
    Exchange exchange_;
    std::optional<std::vector<Algorithm>> by_size_;  // see tunable::measured_reductions
    std::vector<uint16_t> reduced_;                  // data of less precision
    std::vector<float> terms_;                       // and the received terms of a piece
    std::vector<SharingRank> sharing_;               // not yet agreed with
    MemorySource * source_ = nullptr;                // of the memory for them
    std::optional<Error> failure_;
};

}  // namespace caravan::server
