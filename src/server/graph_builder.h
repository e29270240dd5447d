// From the payload of GRAPH_COMPUTE to a graph that ggml can run: decoded, checked, built. Nothing recurses.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "abi/ggml_abi.h"
#include "server/buffer_table.h"
#include "wire/stock.h"

namespace caravan::server {

struct Graph {
    struct Deleter {
        void operator()(ggml_context * context) const { ggml_free(context); }
    };
    std::unique_ptr<ggml_context, Deleter> context;  // owns the tensors and the graph
    ggml_cgraph * graph = nullptr;
    std::vector<uint64_t> buffers;  // handles of the buffers that it touches, ascending, each once

    bool uses(uint64_t buffer) const;
};

// Every tensor is checked as in tensor_check.h; every node and source must exist, must have its data in a buffer
// (unless it is empty), must not carry a function pointer, and must be something that `device` says it can compute.
// Nodes that are not marked for computation are left out.
Result<Graph> build_graph(ConstBytes payload, ggml_backend_dev_t device, BufferTable & buffers);

}  // namespace caravan::server
