#include "server/session/stock_graphs.h"

#include <algorithm>

namespace caravan::server {

StockGraphs::StockGraphs(SessionContext & context)
    : context_(context),
      store_(context, context.devices.count(), [&context](uint32_t device) { return context.synchronize(device); }),
      unkept_(context.devices.count()) {}

void StockGraphs::drop_graphs_using(uint64_t buffer) {
    store_.drop_using(buffer);
    for (auto & graph : unkept_) {
        graph.reset();
    }
}

Result<> StockGraphs::compute(uint64_t size) {
    const auto first = context_.in.peek(sizeof(wire::GraphComputeRequest));
    if (!first) {
        return std::unexpected(first.error());
    }
    const uint64_t n_nodes = load<wire::GraphComputeRequest>(first->data()).n_nodes;
    const uint64_t needed = building_bytes(size, size / sizeof(wire::Tensor), std::min(n_nodes, size / sizeof(uint64_t)));
    auto building = store_.evict(needed).and_then([&] { return context_.memory.claim_host(needed); });
    if (!building) {
        return std::unexpected(building.error());
    }
    // Allocates memory as bytes arrive, because the announced size is not trusted.
    std::vector<std::byte> payload;
    auto read = context_.in.read_pieces(
        size, [&](ConstBytes piece) { payload.insert(payload.end(), piece.begin(), piece.end()); });
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
    auto stored = store_.claim(head.device, std::move(*graph));
    if (!stored) {
        return std::unexpected(stored.error());
    }
    if (uid == 0) {
        return store_.launch(unkept_[head.device].emplace(std::move(*stored)));
    }
    const bool is_new = store_.find(head.device, uid) == nullptr;
    const bool is_full = store_.count(head.device) >= wire::max_kept_graphs;
    if (!is_new || is_full) {
        if (auto waited = context_.synchronize(head.device); !waited) {  // the replaced graph may be running
            return waited;
        }
    }
    if (is_new && is_full) {
        store_.clear(head.device);  // the client does the same
    }
    return store_.launch(store_.insert(head.device, uid, std::move(*stored)));
}

Result<> StockGraphs::recompute() {
    return context_.serve_on_device<wire::GraphRecomputeRequest>([&](const auto & request) -> Result<> {
        const uint32_t device = request.device;
        const uint64_t uid = request.uid;
        StoredGraph * graph = store_.find(device, uid);
        if (graph == nullptr) {
            return fail(Errc::not_found, "no graph {} on device {}{}", uid, device,
                        store_.has_evicted() ? "; some graphs were evicted to stay within the memory limit" : "");
        }
        return store_.launch(*graph);
    });
}

}  // namespace caravan::server
