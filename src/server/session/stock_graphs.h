// The stock dialect's graphs of one session. A client sends each graph once and refers to it by its uid afterwards. Used by the
// session's thread only.
#pragma once

#include <optional>
#include <vector>

#include "server/session/graph_store.h"
#include "server/session/session_context.h"

namespace caravan::server {

class StockGraphs {
public:
    // `context` must outlive this.
    explicit StockGraphs(SessionContext & context);

    // GRAPH_COMPUTE. `size`: payload bytes, within payload_bounds().
    Result<> compute(uint64_t size);
    // GRAPH_RECOMPUTE. Errc::not_found if no graph is stored under the uid.
    Result<> recompute();

    // Drops graphs that use `buffer`, which is about to be freed. No graph may be running.
    void drop_graphs_using(uint64_t buffer);

private:
    SessionContext & context_;
    GraphStore store_;                                // by device, by the client's uid
    std::vector<std::optional<StoredGraph>> unkept_;  // by device; uid 0, may still be running
};

}  // namespace caravan::server
