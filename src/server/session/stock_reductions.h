// All-reduce for stock clients: the commands COMM_INIT, COMM_ALLREDUCE and COMM_FREE. Two servers, stock or not, add up a
// tensor over one connection. Used by the session's thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "server/links/reduction_group.h"
#include "server/session/memory_budget.h"
#include "wire/stock_comm.h"

namespace caravan::server {

struct SessionContext;

class StockReductions {
public:
    // `context` must outlive this.
    explicit StockReductions(SessionContext & context) : context_(context) {}

    // COMM_INIT. Replies 0 if the ranks cannot be connected; the client then adds up tensors itself.
    Result<> join();
    // COMM_ALLREDUCE. An error ends the session.
    Result<> reduce();
    // COMM_FREE.
    Result<> leave();

private:
    struct Pair {
        std::unique_ptr<net::Transport> link;
        ReductionGroup ranks;
        MemoryClaim claim{};   // of the memory that `ranks` keeps,
        uint64_t claimed = 0;  // bytes
    };
    Result<> join(const wire::CommInitRequest & request);
    Result<> add_up(Pair & pair, const wire::Tensor & tensor);

    SessionContext & context_;
    std::unordered_map<uint32_t, Pair> pairs_;  // by device
};

}  // namespace caravan::server
