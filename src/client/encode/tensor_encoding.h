// Encodes ggml's tensors and graphs for the two dialects.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/session/idle_writes.h"
#include "wire/native.h"

namespace caravan::client {

// The server's handle for a buffer, 0 if the buffer belongs to another connection or back-end.
using HandleOf = std::function<uint64_t(ggml_backend_buffer_t)>;

// Whether the dialect can describe this node: it has no function pointer and, in the stock dialect, no size or stride (its
// own or of a source) of more than 32 bits.
bool can_carry(const ggml_tensor & node, bool native);

// Whether back-ends pad this tensor's rows, so that it takes more than ggml_nbytes() and the server must initialize it.
bool is_padded(const ggml_tensor & tensor);

// Integer types have no NaN: every bit pattern is a value.
bool is_integer(uint32_t type);

// The buffer that holds the tensor's bytes: for a view, that of its source, as in ggml's own functions. ggml makes the source
// of a view the tensor that owns the bytes, so there are no views of views. Null if none was allocated yet.
ggml_backend_buffer_t buffer_of(const ggml_tensor & tensor);

// The type, shape, strides, buffer and address of a tensor.
wire::Region encode_region(const ggml_tensor & tensor, uint64_t handle);
wire::Tensor stock_tensor(const wire::Region & region);

// The addresses of the tensor's bytes on the server.
Range range_of(const ggml_tensor & tensor);
Range range_of(const ggml_tensor & tensor, size_t offset, size_t size);

// The part of a graph that a server needs; sources precede the nodes that use them. Contains each computed node, its direct
// sources, and the tensors that these are views of. Nodes that are not marked for computation or have no elements, and
// tensors that only they need, are left out, so the server's back-end never processes an unmarked node.
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

// Encodes a query whether a device supports a node: its sources, then the node, without addresses and names.
std::vector<wire::GraphTensor> encode_op_query(const ggml_tensor & node);

}  // namespace caravan::client
