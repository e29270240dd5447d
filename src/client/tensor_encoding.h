// ggml's tensors and graphs as the stock dialect describes them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/idle_writes.h"
#include "wire/stock.h"

namespace caravan::client {

// The server's handle for a buffer, 0 if the buffer is not one of this connection.
using HandleOf = std::function<uint64_t(ggml_backend_buffer_t)>;

// Can the stock dialect describe this node? Not if a size or a stride (of it or of a source) needs more than 32 bits,
// nor if it carries a function pointer.
bool can_carry(const ggml_tensor & node);

// Do back-ends pad this tensor's rows, so that it takes more than its bytes and the server must be told of it?
bool is_padded(const ggml_tensor & tensor);

// Enough for the commands that name a region of one tensor: type, shape, strides, buffer, address.
wire::Tensor encode_region(const ggml_tensor & tensor, uint64_t handle);

// With op, sources and name.
wire::Tensor encode_full(const ggml_tensor & tensor, const HandleOf & handle_of);

// Where the tensor's bytes lie on the server.
Range range_of(const ggml_tensor & tensor);
Range range_of(const ggml_tensor & tensor, size_t offset, size_t size);

struct EncodedGraph {
    std::vector<std::byte> payload;  // of GRAPH_COMPUTE
    Ranges touched;                  // what its nodes read or write
    uint32_t n_nodes = 0;
};

// Nodes that are not marked for computation are left out, together with what only they need: a computed node gets its
// sources one level deep, and the tensors that those are views of. Whatever the server's back-end does with unmarked
// nodes, it never sees one.
EncodedGraph encode_graph(const ggml_cgraph & graph, uint32_t device, const HandleOf & handle_of);

}  // namespace caravan::client
