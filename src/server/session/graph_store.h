// The built graphs of one dialect in a session. Evicts the least recently launched ones when host memory runs out. Used by the
// session's thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "server/graph/graph_builder.h"
#include "server/session/session_context.h"

namespace caravan::server {

struct StoredGraph {
    Graph graph;
    MemoryClaim memory;
    uint32_t device = 0;       // that computes it
    uint64_t last_launch = 0;  // its number among all launches of the session
};

class GraphStore {
public:
    // Graphs are identified by a group and an id in that group. `context` must outlive this. `wait` is called before a graph of
    // `device` is evicted, because it may be running; an error stops the eviction.
    GraphStore(SessionContext & context, size_t n_groups, std::function<Result<>(uint32_t device)> wait)
        : context_(context), wait_(std::move(wait)), groups_(n_groups) {}

    // Null if there is no such graph. The pointer is valid until the graph is replaced, evicted or dropped.
    StoredGraph * find(size_t group, uint64_t id);
    size_t count(size_t group) const { return groups_[group].size(); }

    // Claims the host memory of a built graph, evicting others if necessary. Errc::no_memory.
    Result<StoredGraph> claim(uint32_t device, Graph graph);
    // Stores a graph, in place of an earlier one with the same id, which must not be running.
    StoredGraph & insert(size_t group, uint64_t id, StoredGraph graph);
    // The dropped graphs must not be running.
    void erase(size_t group, uint64_t id) { groups_[group].erase(id); }
    void clear(size_t group) { groups_[group].clear(); }
    void drop_using(uint64_t buffer);

    // Evicts graphs, except `spared`, until `bytes` of host memory are available. Errc::no_memory if that is not enough.
    Result<> evict(uint64_t bytes, const StoredGraph * spared = nullptr);
    bool has_evicted() const { return has_evicted_; }

    // Launches a graph and notes that it is in use.
    Result<> launch(StoredGraph & graph);

private:
    SessionContext & context_;
    const std::function<Result<>(uint32_t)> wait_;
    std::vector<std::unordered_map<uint64_t, StoredGraph>> groups_;
    bool has_evicted_ = false;
};

}  // namespace caravan::server
