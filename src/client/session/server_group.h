// Several servers that add up tensors among themselves (-sm tensor): each holds one term, and afterwards the sum.
//
// The sums are queued like launches: the client waits for none, and sends many at once. Two rules make every sum end:
//
// - Order: a sum is queued for all servers before the next one is, of this or another group. Otherwise two servers could wait
//   for each other's terms of different sums.
// - Liveness: a thread that waits for one server first sends what is queued for the others, because the server may wait for
//   them.
//
// docs/model/reduce.pml is the model of both. Threads: any.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "client/session/connection.h"

namespace caravan::client {

class ServerGroup {
public:
    // The group of these sessions, which are different and native. Links each pair of servers, which is logged. Fails if a pair
    // cannot be linked, or a server has no groups of this version. The same sessions have one group, which is kept while one of
    // its users lives. What it has made on the servers is used again as long as the sessions live.
    static Result<std::shared_ptr<ServerGroup>> of(const std::vector<std::shared_ptr<Connection>> & members);
    ~ServerGroup();

    const std::vector<std::shared_ptr<Connection>> & members() const { return members_; }
    static std::string names_of(const std::vector<std::shared_ptr<Connection>> & members);  // of the servers
    std::string names() const { return names_of(members_); }
    const std::string & transports() const { return transports_; }  // of the links: "tcp", "rdma and tcp"; "" without any
    // Queues the sum. `terms`: for each member. `precision`: of what the servers send to each other. False if it was not
    // queued, because a server is lost or lacks data, or the group could not be made again.
    bool reduce(const std::vector<std::vector<Reductions::Term>> & terms, wire::Precision precision);

    // How the servers add up tensors of that many bytes, and between how many pairs of them through shared memory.
    // Errc::unsupported if a server does not report it, or nothing was added up yet.
    struct Exchange {
        wire::Algorithm algorithm{};
        size_t sharing_pairs = 0;
    };
    Result<Exchange> exchange(uint64_t bytes);

    // How many computations have failed.
    uint64_t failures() const { return failures_; }
    // A computation has failed, with a group that had failed `seen` times before. Returns the number of failures. Whether the
    // group itself has failed is not known: a launch fails in the same way.
    uint64_t record_failure(uint64_t seen);
    // If a computation has failed: waits until the servers have done what is queued, forgets what they report, and makes the
    // group again, with new links. Logs the result. Does nothing if a session is lost.
    void renew();

    // Before a thread waits for a member of any group: sends and receives what is possible without waiting, for all members of
    // all groups. Returns after which time to do it again.
    static std::chrono::nanoseconds advance_before_wait();

private:
    using Numbers = std::vector<uint16_t>;  // of the group, on each server

    explicit ServerGroup(std::vector<std::shared_ptr<Connection>> members) : members_(std::move(members)) {}
    Result<Numbers> form();
    Result<> form_and_join();
    std::chrono::nanoseconds advance();

    const std::vector<std::shared_ptr<Connection>> members_;
    Numbers numbers_;                    // empty: the group could not be made. Guarded by the order lock
    std::atomic<bool> is_given_up_ = false;  // it could not be made again, and is not tried again
    std::string transports_;
    std::atomic<uint64_t> failures_ = 0;
    std::atomic<uint64_t> renewed_ = 0;  // the failures when the group was last made
    std::atomic<uint32_t> queued_ = 0;   // sums since a thread last waited
};

// Logs that ggml copies tensors between the servers instead.
void log_fallback(std::string_view servers, const Error & error);

}  // namespace caravan::client
