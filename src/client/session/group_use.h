// The use of a ServerGroup by one context of the program, whose back-ends share it.
//
// A failed computation of any context ends the group: the reasons that the servers have reported are dropped, and the next
// computation makes it again. So each other context fails once too, because one of these reasons may be its own.
//
// Threads: one at a time, as ggml uses the back-ends of a context.
#pragma once

#include <memory>
#include <vector>

#include "client/session/server_group.h"

namespace caravan::client {

class GroupUse {
public:
    explicit GroupUse(std::shared_ptr<ServerGroup> group) : group_(std::move(group)), seen_failures_(group_->failures()) {}

    const std::vector<std::shared_ptr<Connection>> & members() const { return group_->members(); }

    // Before each launch. Makes the group again after a failure. False, which is logged, if another context has failed since
    // the last launch.
    bool begin_launch();
    // The launch, or a wait for its result, has failed.
    void fail();
    // See ServerGroup.
    bool reduce(const std::vector<std::vector<Reductions::Term>> & terms, wire::Precision precision);
    // After the launch on a member: waits until the results arrive that were requested from any member, if this is the last
    // one. After a launch that no reduction precedes, waits for that launch's result.
    ggml_status confirm(Connection & launched);

private:
    bool is_undisturbed();
    ggml_status await_results(Connection & launched);

    const std::shared_ptr<ServerGroup> group_;
    uint64_t seen_failures_;
    bool has_reduced_ = false;  // since the last member's launch
};

}  // namespace caravan::client
