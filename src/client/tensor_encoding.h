// ggml's tensors and graphs as the two dialects describe them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/idle_writes.h"
#include "wire/native.h"

namespace caravan::client {

// The server's handle for a buffer, 0 if the buffer is not one of this connection.
using HandleOf = std::function<uint64_t(ggml_backend_buffer_t)>;

// Can the dialect describe this node? Not if it carries a function pointer; nor, in the stock one, if a size or a stride
// (of it or of a source) needs more than 32 bits.
bool can_carry(const ggml_tensor & node, bool native);

// Do back-ends pad this tensor's rows, so that it takes more than its bytes and the server must be told of it?
bool is_padded(const ggml_tensor & tensor);

// Whole numbers, such as row numbers: every bit pattern of theirs is a value.
bool is_integer(uint32_t type);

// Enough for the commands that name a region of one tensor: type, shape, strides, buffer, address.
wire::Region encode_region(const ggml_tensor & tensor, uint64_t handle);
wire::Tensor stock_tensor(const wire::Region & region);

// Where the tensor's bytes lie on the server.
Range range_of(const ggml_tensor & tensor);
Range range_of(const ggml_tensor & tensor, size_t offset, size_t size);

// What a server needs of a graph, in an order in which sources come before those that use them. Nodes that are not
// marked for computation, and those without elements, are left out, together with what only they need: a computed node gets its sources one level
// deep, and the tensors that those are views of. Whatever the server's back-end does with unmarked nodes, it never
// sees one.
struct CollectedGraph {
    struct Entry {
        const ggml_tensor * tensor;
        bool is_node;
        int32_t use_count;
    };
    std::vector<Entry> entries;
    Footprint footprint;
    uint32_t n_nodes = 0;
};
CollectedGraph collect_graph(const ggml_cgraph & graph, const HandleOf & handle_of);

// The payload of GRAPH_COMPUTE.
std::vector<std::byte> encode_stock_graph(const CollectedGraph & graph, uint64_t uid, uint32_t device,
                                          const HandleOf & handle_of);
std::vector<wire::GraphTensor> encode_native_graph(const CollectedGraph & graph, const HandleOf & handle_of);

// The question whether a device supports a node: its sources, then the node. Shapes only.
std::vector<wire::GraphTensor> encode_question(const ggml_tensor & node);

}  // namespace caravan::client
