#include "server/stock_graphs.h"

#include <algorithm>

namespace caravan::server {

StockGraphs::StockGraphs(SessionContext & context)
    : context_(context), kept_(context.devices.count()), unkept_(context.devices.count()) {}

void StockGraphs::drop_graphs_using(uint64_t buffer) {
    for (auto & kept : kept_) {
        std::erase_if(kept, [&](const auto & entry) { return entry.second.graph.uses(buffer); });
    }
    for (auto & graph : unkept_) {
        graph.reset();
    }
}

// Evicts the least recently launched graphs until `bytes` of host memory are available. False if that is not enough.
bool StockGraphs::evict_graphs(uint64_t bytes) {
    while (!context_.memory.fits_host(bytes)) {
        std::unordered_map<uint64_t, KeptGraph> * holder = nullptr;
        std::unordered_map<uint64_t, KeptGraph>::iterator oldest;
        for (auto & kept : kept_) {
            for (auto graph = kept.begin(); graph != kept.end(); ++graph) {
                if (holder == nullptr || graph->second.used < oldest->second.used) {
                    holder = &kept;
                    oldest = graph;
                }
            }
        }
        if (holder == nullptr) {
            return false;
        }
        (void)context_.runs.synchronize();  // it may be running
        holder->erase(oldest);
        evicted_ = true;
    }
    return true;
}

Result<StockGraphs::KeptGraph> StockGraphs::keep(Graph graph) {
    const uint64_t bytes = graph.bytes();
    evict_graphs(bytes);
    return context_.memory.claim_host(bytes).transform([&](MemoryClaim memory) {
        return KeptGraph{std::move(graph), std::move(memory), context_.runs.launches()};
    });
}

Result<> StockGraphs::compute(uint64_t size) {
    const auto first = context_.in.peek(sizeof(wire::GraphComputeRequest));
    if (!first) {
        return std::unexpected(first.error());
    }
    const uint64_t n_nodes = load<wire::GraphComputeRequest>(first->data()).n_nodes;
    const uint64_t needed = building_bytes(size, size / sizeof(wire::Tensor), std::min(n_nodes, size / sizeof(uint64_t)));
    evict_graphs(needed);
    auto building = context_.memory.claim_host(needed);  // held while the payload arrives
    if (!building) {
        return std::unexpected(building.error());
    }
    // Allocates memory as bytes arrive, because the announced size is not trusted.
    std::vector<std::byte> payload;
    auto read = context_.in.read_pieces(size, [&](ConstBytes piece) { payload.insert(payload.end(), piece.begin(), piece.end()); });
    if (!read) {
        return read;
    }
    const auto head = load<wire::GraphComputeRequest>(payload.data());
    if (auto good = context_.devices.check(head.device); !good) {
        return good;
    }
    auto graph = describe_stock_graph(payload).and_then([&](const GraphDescription & description) {
        return build_graph(description, context_.devices.device(head.device), context_.buffers);
    });
    if (!graph) {
        return std::unexpected(graph.error());
    }
    context_.runs.count_built();
    payload = std::vector<std::byte>();  // = {} would keep the capacity
    *building = {};
    const uint64_t uid = head.uid;
    if (uid == 0) {
        if (auto waited = context_.synchronize(head.device); !waited) {  // the replaced graph may be running
            return waited;
        }
        unkept_[head.device].reset();
    }
    auto keeping = keep(std::move(*graph));
    if (!keeping) {
        return std::unexpected(keeping.error());
    }
    if (uid == 0) {
        return context_.runs.launch(head.device, unkept_[head.device].emplace(std::move(*keeping)).graph);
    }
    auto & kept = kept_[head.device];
    const bool is_new = !kept.contains(uid);
    if (!is_new || kept.size() >= wire::max_kept_graphs) {
        if (auto waited = context_.synchronize(head.device); !waited) {  // the replaced graph may be running
            return waited;
        }
    }
    if (is_new && kept.size() >= wire::max_kept_graphs) {
        kept.clear();  // the client does the same
    }
    return context_.runs.launch(head.device, kept.insert_or_assign(uid, std::move(*keeping)).first->second.graph);
}

Result<> StockGraphs::recompute() {
    return context_.serve_on_device<wire::GraphRecomputeRequest>([&](const auto & request) -> Result<> {
        const auto found = kept_[request.device].find(uint64_t{request.uid});
        if (found == kept_[request.device].end()) {
            return fail(Errc::not_found, "no graph {} on device {}{}", static_cast<uint64_t>(request.uid),
                        static_cast<uint32_t>(request.device),
                        evicted_ ? "; some graphs were evicted to stay within the memory limit" : "");
        }
        found->second.used = context_.runs.launches();
        return context_.runs.launch(request.device, found->second.graph);
    });
}

}  // namespace caravan::server
