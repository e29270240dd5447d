#include "server/session/graph_store.h"

namespace caravan::server {

StoredGraph * GraphStore::find(size_t group, uint64_t id) {
    const auto found = groups_[group].find(id);
    return found == groups_[group].end() ? nullptr : &found->second;
}

Result<StoredGraph> GraphStore::claim(uint32_t device, Graph graph) {
    const uint64_t bytes = graph.bytes();
    if (auto evicted = evict(bytes); !evicted) {  // no memory, or a launch that the eviction waited for has failed
        return std::unexpected(evicted.error());
    }
    return context_.memory.claim_host(bytes).transform([&](MemoryClaim memory) {
        return StoredGraph{std::move(graph), std::move(memory), device, context_.runs.launches()};
    });
}

StoredGraph & GraphStore::insert(size_t group, uint64_t id, StoredGraph graph) {
    return groups_[group].insert_or_assign(id, std::move(graph)).first->second;
}

void GraphStore::drop_using(uint64_t buffer) {
    for (auto & group : groups_) {
        std::erase_if(group, [&](const auto & entry) { return entry.second.graph.uses(buffer); });
    }
}

Result<> GraphStore::evict(uint64_t bytes, const StoredGraph * spared) {
    while (!context_.memory.fits_host(bytes)) {
        std::unordered_map<uint64_t, StoredGraph> * holder = nullptr;
        std::unordered_map<uint64_t, StoredGraph>::iterator oldest;
        for (auto & group : groups_) {
            for (auto graph = group.begin(); graph != group.end(); ++graph) {
                if (&graph->second != spared &&
                    (holder == nullptr || graph->second.last_launch < oldest->second.last_launch)) {
                    holder = &group;
                    oldest = graph;
                }
            }
        }
        if (holder == nullptr) {
            return std::unexpected(context_.memory.claim_host(bytes).error());
        }
        if (auto waited = wait_(oldest->second.device); !waited) {
            return waited;
        }
        holder->erase(oldest);
        has_evicted_ = true;
    }
    return {};
}

Result<> GraphStore::launch(StoredGraph & graph) {
    graph.last_launch = context_.runs.launches();
    return context_.runs.launch(graph.device, graph.graph);
}

}  // namespace caravan::server
