// The stock dialect's graphs of one session: a client sends a graph whole, once, and names it by its uid after that. One
// thread.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "server/data.h"
#include "server/graph_runs.h"
#include "server/memory_budget.h"

namespace caravan::server {

class StockGraphs {
public:
    StockGraphs(net::Inbound & in, Devices & devices, BufferTable & buffers, MemoryBudget & memory, Data & data,
                GraphRuns & runs);

    // GRAPH_COMPUTE, with a payload of `size` bytes within payload_bounds().
    Result<> compute(uint64_t size);
    // GRAPH_RECOMPUTE. Errc::not_found for a uid that is not kept.
    Result<> recompute();

    // A buffer is about to be freed: nothing runs, and graphs that need it go.
    void forget(uint64_t buffer);

private:
    struct KeptGraph {
        Graph graph;
        MemoryClaim memory;
        uint64_t used = 0;  // when: of all launches, the number of its last
    };

    bool make_room(uint64_t bytes);
    Result<KeptGraph> keep(Graph graph);

    net::Inbound & in_;
    Devices & devices_;
    BufferTable & buffers_;
    MemoryBudget & memory_;
    Data & data_;
    GraphRuns & runs_;
    std::vector<std::unordered_map<uint64_t, KeptGraph>> kept_;  // by device, by the client's uid
    std::vector<std::optional<KeptGraph>> unkept_;               // by device, uid 0: may still be running
    bool forgot_ = false;                                        // some graphs, to make room for others
};

}  // namespace caravan::server
