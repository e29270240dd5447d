// All-reduce over several servers, for the session with one of them. ServerGroup has one of these for each rank.
//
// Threads: any.
#pragma once

#include <span>

#include "client/session/command_queue.h"

namespace caravan::client {

class Reductions {
public:
    // A tensor to add up. `is_zero`: it is not computed, and counts as zeros.
    struct Term {
        wire::Region region;
        Range range;
        bool is_zero = false;
    };

    explicit Reductions(CommandQueue & queue) : queue_(queue) {}

    // Makes the session a member of a group, and returns the group's number on this server.
    // `patience`: how long the server waits for a rank that sends nothing.
    Result<uint16_t> join(uint8_t rank, std::span<const wire::GroupPeer> peers, seconds patience);
    // Whether the server can be a member: its GROUP and REDUCE have this client's version.
    Result<bool> supports_groups();
    // The algorithm of such sums of this group, and how many ranks the server reaches through shared memory. Errc::unsupported:
    // the server is older and does not report it, or nothing was added up yet.
    Result<wire::AlgorithmReply> algorithm(uint16_t group, uint64_t bytes);
    // Whether the terms were delivered and nothing is relayed, so that a sum of them can be queued.
    bool can_reduce(std::span<const Term> terms);
    // Queues a sum. The launch before it is held until then, from its second time on.
    // `precision`: of what the servers send to each other.
    void reduce(uint16_t group, wire::Precision precision, std::span<const Term> terms);
    // Stream::advance(). Takes the lock.
    std::chrono::nanoseconds advance();

private:
    Result<wire::SessionFacts> facts();

    CommandQueue & queue_;
    uint16_t next_group_ = 0;  // guarded by the queue's lock
};

}  // namespace caravan::client
