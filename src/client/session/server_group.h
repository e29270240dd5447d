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
#include <vector>

#include "client/session/connection.h"

namespace caravan::client {

class ServerGroup {
public:
    // The group of these sessions, which are different and native. Links each pair of servers and logs the result; returns null
    // if one cannot be made. The same sessions have one group, which is kept while one of its users lives.
    static std::shared_ptr<ServerGroup> of(const std::vector<std::shared_ptr<Connection>> & members);

    const std::vector<std::shared_ptr<Connection>> & members() const { return members_; }
    // Queues the sum. `terms`: for each member. False if it was not queued, because a server is lost or lacks data.
    bool reduce(const std::vector<std::vector<Reductions::Term>> & terms);

    // After the launch on a member: waits until the results arrive that were requested from any member, if this is the last one.
    // After a launch that no reduction precedes, waits for that launch's result.
    ggml_status confirm(Connection & launched);

    // Before a thread waits for a member: sends and receives what is possible without waiting, for all members. Returns after
    // which time to do it again.
    std::chrono::nanoseconds advance_before_wait();

private:
    explicit ServerGroup(std::vector<std::shared_ptr<Connection>> members) : members_(std::move(members)) {}
    Result<> form();
    std::chrono::nanoseconds advance();

    const std::vector<std::shared_ptr<Connection>> members_;
    std::vector<uint16_t> numbers_;  // of the group, on each server
    std::atomic<uint32_t> queued_ = 0;  // sums since a thread last waited
};

}  // namespace caravan::client
