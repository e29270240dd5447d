// Graphs as the client encodes them for a stock server.
#pragma once

#include <vector>

#include "client/encode/tensor_encoding.h"

namespace caravan::test {

struct EncodedGraph {
    std::vector<std::byte> payload;  // of GRAPH_COMPUTE
    client::Ranges touched, overwritten;
    uint32_t n_nodes = 0;
};
inline EncodedGraph encode_graph(const ggml_cgraph & graph, uint32_t device, const client::HandleOf & handle_of) {
    const client::CollectedGraph collected = client::collect_graph(graph, handle_of);
    return {client::encode_stock_graph(collected, graph.uid, device, handle_of), collected.footprint.touched,
            collected.footprint.overwritten, collected.n_nodes};
}

}  // namespace caravan::test
