// From a graph on the wire, in either dialect, to one that ggml can run: decoded, checked, built. Nothing recurses.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "abi/ggml_abi.h"
#include "server/buffer_table.h"
#include "server/op_check.h"
#include "wire/native.h"

namespace caravan::server {

struct Graph {
    struct Deleter {
        void operator()(ggml_context * context) const { ggml_free(context); }
    };
    std::unique_ptr<ggml_context, Deleter> context;  // owns the tensors and the graph
    ggml_cgraph * graph = nullptr;
    std::vector<uint64_t> buffers;  // handles of the buffers that it touches, ascending, each once
    std::vector<uint32_t> devices;  // whose memory that is, likewise
    std::vector<Indices> indices;   // to be looked at before each launch: op_check.h

    bool uses(uint64_t buffer) const;
    uint64_t bytes() const;  // of host memory
};

// A graph as a peer describes it: the tensors, and the positions of the computed ones in the order of computation.
struct GraphDescription {
    std::vector<wire::GraphTensor> tensors;
    std::vector<uint32_t> nodes;
};
// Of the stock dialect: the payload of GRAPH_COMPUTE.
Result<GraphDescription> describe_stock_graph(ConstBytes payload);
// Of the native one.
GraphDescription describe_graph(std::vector<wire::GraphTensor> tensors);

// The host memory that describing and building a graph may take besides its bytes on the wire, which may be held
// three times while they arrive. An upper bound for either dialect.
// `n_nodes`: 0 if each tensor is one at most once.
uint64_t building_bytes(uint64_t wire_bytes, uint64_t n_tensors, uint64_t n_nodes = 0);

// Every tensor is checked as in tensor_check.h, and a view must lie where its source and offset say. Every node and
// source must exist, must have its data in a buffer (unless it is empty), must be what ggml would have made
// (op_check.h), and something that `device` can compute. Nodes that are not marked for computation, and those without
// elements, are left out.
Result<Graph> build_graph(const GraphDescription & description, ggml_backend_dev_t device, BufferTable & buffers);

// For each node, in order: can `device` compute it? Shapes only; no buffer is looked at.
Result<std::vector<uint8_t>> supported_nodes(GraphDescription description, ggml_backend_dev_t device);

}  // namespace caravan::server
