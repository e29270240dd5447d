// One rank's side of all-reduce: a group of sessions, each on another server, that add up tensors.
//
// Every pair of ranks shares a link, used in both directions. In each reduction a rank sends its tensor to all others and
// adds up what it receives in the order of the ranks, so that all hold the same bits. Sending, receiving and adding overlap.
// The rules that make every reduction end are those of docs/model/reduce.pml.
//
// Used by the session's thread only.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "net/transport.h"
#include "tunables/links.h"
#include "wire/native.h"

namespace caravan::server {

class ReductionGroup {
public:
    // `links`: by rank; null for this one. They must outlive the group.
    // `patience`: how long nothing may move in a reduction. Ranks compute between reductions, each for about as long.
    // `leave_time`: how long a rank that fails goes on sending a message that it began.
    ReductionGroup(size_t rank, std::vector<net::Transport *> links, milliseconds patience,
                   milliseconds leave_time = tunable::reduction_leave_timeout);

    // Replaces `data` by its sum over all ranks, which must call this with as many elements. `is_valid`: false if this rank
    // could not compute its data. Fails with Errc::unavailable if another one could not, and for ever once a link has
    // broken or a rank has left; `data` is undefined then. Returns early if `is_cancelled`.
    Result<> reduce(std::span<float> data, bool is_valid, const std::atomic<bool> & is_cancelled);

    // Leaves the group: this rank cannot take part in the next reduction. It fails at the others, as every later one.
    void leave(Error error);

    // Bytes of memory that the group keeps for reductions of up to `bytes` bytes.
    uint64_t window_bytes(uint64_t bytes) const;

private:
    struct Other {
        net::Transport * link;
        size_t rank;
        size_t sent = 0, received = 0;  // bytes of this reduction, with the header
        bool is_sending = false;        // a message was begun and not completed
        wire::ReduceHeader header{};
        std::vector<float> window;  // received data: position modulo its size
    };

    Result<> exchange(std::span<float> data, const wire::ReduceHeader & own, const std::atomic<bool> & is_cancelled);
    Result<bool> send(Other & other, const wire::ReduceHeader & own, ConstBytes data);
    Result<bool> receive(Other & other, size_t size, size_t done);
    Result<> check(const Other & other, size_t size) const;
    Result<> wait(size_t total, TimePoint since, const std::atomic<bool> & is_cancelled);
    void add(std::span<float> data, size_t begin, size_t end);
    void complete(const wire::ReduceHeader & own, std::span<const float> data);

    const size_t rank_;
    const milliseconds patience_, leave_time_;
    std::vector<Other> others_;
    uint64_t number_ = 0;
    std::optional<Error> failure_;
};

}  // namespace caravan::server
