#include "client/tensor_encoding.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <unordered_set>

#include "abi/abi_check.h"

namespace caravan::client {
namespace {

bool fits(const ggml_tensor & tensor) {
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (tensor.ne[i] < 0 || tensor.ne[i] > UINT32_MAX || tensor.nb[i] > UINT32_MAX) {
            return false;
        }
    }
    return true;
}

uint64_t id_of(const ggml_tensor * tensor) { return reinterpret_cast<uint64_t>(tensor); }

ggml_backend_buffer_t buffer_of(const ggml_tensor & tensor) {
    return tensor.buffer == nullptr && tensor.view_src != nullptr ? tensor.view_src->buffer : tensor.buffer;
}

// Everything but sources.
wire::Tensor encode_alone(const ggml_tensor & tensor, const HandleOf & handle_of) {
    const ggml_backend_buffer_t buffer = buffer_of(tensor);
    wire::Tensor out = encode_region(tensor, buffer == nullptr ? 0 : handle_of(buffer));
    out.op = static_cast<uint32_t>(tensor.op);
    std::memcpy(out.op_params, tensor.op_params, sizeof out.op_params);
    out.flags = tensor.flags;
    out.view_src = id_of(tensor.view_src);
    out.view_offs = tensor.view_offs;
    std::memcpy(out.name, tensor.name, strnlen(tensor.name, sizeof out.name - 1));
    return out;
}

}  // namespace

bool can_carry(const ggml_tensor & node) {
    switch (node.op) {
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM: return false;
        default: break;
    }
    if (!fits(node)) {
        return false;
    }
    for (const ggml_tensor * src : node.src) {
        if (src != nullptr && (!fits(*src) || (src->view_src != nullptr && !fits(*src->view_src)))) {
            return false;
        }
    }
    return node.view_src == nullptr || fits(*node.view_src);
}

bool is_padded(const ggml_tensor & tensor) {
    constexpr int64_t whole_row = 512;  // elements: ggml's back-ends pad quantised rows to a multiple of this
    return ggml_is_quantized(tensor.type) && tensor.ne[0] % whole_row != 0 && tensor.view_src == nullptr;
}

wire::Tensor encode_region(const ggml_tensor & tensor, uint64_t handle) {
    wire::Tensor out{};
    out.id = id_of(&tensor);
    out.type = static_cast<uint32_t>(tensor.type);
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        out.ne[i] = static_cast<uint32_t>(tensor.ne[i]);
        out.nb[i] = static_cast<uint32_t>(tensor.nb[i]);
    }
    out.buffer = handle;
    out.data = handle == 0 ? 0 : reinterpret_cast<uint64_t>(tensor.data);
    return out;
}

wire::Tensor encode_full(const ggml_tensor & tensor, const HandleOf & handle_of) {
    wire::Tensor out = encode_alone(tensor, handle_of);
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        out.src[i] = id_of(tensor.src[i]);
    }
    return out;
}

Range range_of(const ggml_tensor & tensor) { return range_of(tensor, 0, ggml_nbytes(&tensor)); }

Range range_of(const ggml_tensor & tensor, size_t offset, size_t size) {
    const uint64_t begin = reinterpret_cast<uint64_t>(tensor.data) + offset;
    return {begin, begin + size};
}

EncodedGraph encode_graph(const ggml_cgraph & graph, uint32_t device, const HandleOf & handle_of) {
    std::vector<const ggml_tensor *> nodes;
    nodes.reserve(static_cast<size_t>(graph.n_nodes));
    for (int i = 0; i < graph.n_nodes; ++i) {
        if ((graph.nodes[i]->flags & GGML_TENSOR_FLAG_COMPUTE) != 0) {
            nodes.push_back(graph.nodes[i]);
        }
    }
    const std::unordered_set<const ggml_tensor *> computed(nodes.begin(), nodes.end());
    std::unordered_set<const ggml_tensor *> seen;
    std::vector<wire::Tensor> tensors;
    tensors.reserve(nodes.size() * 3 / 2);
    EncodedGraph out;

    const auto add = [&](wire::Tensor encoded, const ggml_tensor * tensor) {
        const size_t slot = abi::find_slot(graph.visited, tensor);
        encoded.use_count = slot == SIZE_MAX ? 0 : graph.use_counts[slot];
        if (encoded.buffer != 0) {
            out.touched.push_back(range_of(*tensor));
        }
        tensors.push_back(encoded);
    };
    const auto add_leaf = [&](const ggml_tensor * tensor) {
        for (; tensor != nullptr && !computed.contains(tensor) && seen.insert(tensor).second;
             tensor = tensor->view_src) {
            add(encode_alone(*tensor, handle_of), tensor);
        }
    };
    for (const ggml_tensor * node : nodes) {
        for (const ggml_tensor * src : node->src) {
            add_leaf(src);
        }
        add_leaf(node->view_src);
        if (seen.insert(node).second) {
            add(encode_full(*node, handle_of), node);
        }
    }
    normalize(out.touched);
    out.n_nodes = static_cast<uint32_t>(nodes.size());

    const wire::GraphComputeRequest head{device, graph.uid, out.n_nodes};
    const uint32_t n_tensors = static_cast<uint32_t>(tensors.size());
    out.payload.resize(sizeof head + nodes.size() * sizeof(uint64_t) + sizeof n_tensors +
                       tensors.size() * sizeof(wire::Tensor));
    std::byte * at = out.payload.data();
    store(at, head);
    at += sizeof head;
    for (const ggml_tensor * node : nodes) {
        store(at, id_of(node));
        at += sizeof(uint64_t);
    }
    store(at, n_tensors);
    at += sizeof n_tensors;
    std::ranges::copy(std::as_bytes(std::span(tensors)), at);
    return out;
}

}  // namespace caravan::client
