// Decodes, checks and builds a graph that arrived in either dialect, so that ggml can compute it. No function recurses, so a
// client cannot exhaust the stack.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "abi/ggml_abi.h"
#include "server/graph/buffer_table.h"
#include "server/graph/graph_description.h"
#include "server/ops/op_check.h"
#include "wire/native.h"

namespace caravan::server {

struct Graph {
    struct Deleter {
        void operator()(ggml_context * context) const { ggml_free(context); }
    };
    std::unique_ptr<ggml_context, Deleter> context;  // owns the tensors and the graph
    ggml_cgraph * graph = nullptr;
    std::vector<uint64_t> buffers;  // handles of the buffers in use, ascending, unique
    std::vector<uint32_t> devices;  // owners of these buffers, ascending, unique
    std::vector<Indices> indices;   // must pass check_indices() before each launch (op_check.h)

    bool uses(uint64_t buffer) const;
    uint64_t bytes() const;  // host memory that the graph takes
};

// An upper bound, for either dialect, on the host memory that receiving, describing and building a graph takes. The payload
// may be held three times while it arrives. `n_nodes`: 0 if no tensor can be a node more than once.
uint64_t building_bytes(uint64_t wire_bytes, uint64_t n_tensors, uint64_t n_nodes = 0);

// Builds a graph for `device`. Each tensor must pass tensor_check.h, and a view must lie at its offset in its source. Each node
// and source must exist and, unless empty, have its data in a buffer. Each node must pass op_check.h and be supported by
// `device`. Omits nodes that are not marked for computation or have no elements. Errc::invalid_argument, Errc::not_found,
// Errc::unsupported or Errc::no_memory.
Result<Graph> build_graph(const GraphDescription & description, ggml_backend_dev_t device, BufferTable & buffers);

// For each node, in order: 1 if `device` can compute it, else 0. Considers shapes and types only, no buffers.
Result<std::vector<uint8_t>> supported_nodes(GraphDescription description, ggml_backend_dev_t device);

}  // namespace caravan::server
