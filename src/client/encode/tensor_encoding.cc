#include "client/encode/tensor_encoding.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "abi/abi_check.h"
#include "abi/moves_no_data.h"

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

// Everything but sources.
wire::Tensor encode_alone(const ggml_tensor & tensor, const HandleOf & handle_of) {
    const ggml_backend_buffer_t buffer = buffer_of(tensor);
    wire::Tensor out = stock_tensor(encode_region(tensor, buffer == nullptr ? 0 : handle_of(buffer)));
    out.id = id_of(&tensor);
    out.op = static_cast<uint32_t>(tensor.op);
    std::memcpy(out.op_params, tensor.op_params, sizeof out.op_params);
    out.flags = tensor.flags;
    out.view_src = id_of(tensor.view_src);
    out.view_offs = tensor.view_offs;
    std::memcpy(out.name, tensor.name, strnlen(tensor.name, sizeof out.name - 1));
    return out;
}

// Everything but references to other tensors, and the name.
wire::GraphTensor encode_shape(const ggml_tensor & tensor) {
    wire::GraphTensor out{};
    out.type = static_cast<uint32_t>(tensor.type);
    out.op = static_cast<uint32_t>(tensor.op);
    out.flags = tensor.flags;
    out.view_offs = tensor.view_offs;
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        out.ne[i] = static_cast<uint64_t>(tensor.ne[i]);
        out.nb[i] = tensor.nb[i];
    }
    std::memcpy(out.op_params, tensor.op_params, sizeof out.op_params);
    return out;
}

// Whether computing this node writes each of its bytes. Not if its result is a view of another tensor, of which it may change
// only a part, or if there are gaps between its elements.
bool overwrites_itself(const ggml_tensor & node) {
    return node.view_src == nullptr && node.op != GGML_OP_SET_ROWS && ggml_is_contiguous(&node);
}

// A set of addresses. Ranges are added in any order.
class RangeSet {
public:
    void add(Range range) {
        auto next = ends_.upper_bound(range.begin);
        if (next != ends_.begin() && std::prev(next)->second >= range.begin) {
            --next;
        }
        while (next != ends_.end() && next->first <= range.end) {
            range.begin = std::min(range.begin, next->first);
            range.end = std::max(range.end, next->second);
            next = ends_.erase(next);
        }
        ends_.emplace(range.begin, range.end);
    }
    // Appends the parts of `range` that are not in this set to `out`.
    void subtract_from(Range range, Ranges & out) const {
        auto next = ends_.upper_bound(range.begin);
        if (next != ends_.begin()) {
            range.begin = std::max(range.begin, std::min(std::prev(next)->second, range.end));
        }
        for (; next != ends_.end() && next->first < range.end; ++next) {
            out.push_back({range.begin, next->first});
            range.begin = std::min(next->second, range.end);
        }
        if (range.begin < range.end) {
            out.push_back(range);
        }
    }
    Ranges ranges() const {
        Ranges out;
        for (const auto & [begin, end] : ends_) {
            out.push_back({begin, end});
        }
        return out;
    }

private:
    std::map<uint64_t, uint64_t> ends_;  // by begin; disjoint, with gaps
};

Footprint footprint_of(const std::vector<const ggml_tensor *> & nodes, const HandleOf & handle_of) {
    Footprint out;
    RangeSet overwritten;
    const auto touch = [&](const ggml_tensor & tensor) {
        const ggml_backend_buffer_t buffer = buffer_of(tensor);
        if (buffer != nullptr && handle_of(buffer) != 0 && ggml_nbytes(&tensor) > 0) {
            overwritten.subtract_from(range_of(tensor), out.touched);
        }
    };
    for (const ggml_tensor * node : nodes) {
        if (abi::moves_no_data(node->op)) {
            continue;  // nodes that use the result touch it
        }
        for (const ggml_tensor * src : node->src) {
            if (src != nullptr) {
                touch(*src);
            }
        }
        const ggml_backend_buffer_t buffer = buffer_of(*node);
        if (overwrites_itself(*node) && buffer != nullptr && handle_of(buffer) != 0) {
            if (const Range range = range_of(*node); range.end > range.begin) {
                overwritten.add(range);
            }
        } else {
            touch(*node);
        }
    }
    normalize(out.touched);
    out.overwritten = overwritten.ranges();
    return out;
}

}  // namespace

bool can_carry(const ggml_tensor & node, bool native) {
    switch (node.op) {
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM: return false;
        default: break;
    }
    if (native) {
        return true;
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
    return ggml_is_quantized(tensor.type) && tensor.ne[0] % whole_row != 0 && tensor.view_src == nullptr &&
           !ggml_is_empty(&tensor);
}

bool is_integer(uint32_t type) {
    return type == GGML_TYPE_I8 || type == GGML_TYPE_I16 || type == GGML_TYPE_I32 || type == GGML_TYPE_I64;
}

ggml_backend_buffer_t buffer_of(const ggml_tensor & tensor) {
    return tensor.view_src != nullptr ? tensor.view_src->buffer : tensor.buffer;
}

wire::Region encode_region(const ggml_tensor & tensor, uint64_t handle) {
    wire::Region out;
    out.type = static_cast<uint32_t>(tensor.type);
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        out.ne[i] = static_cast<uint64_t>(tensor.ne[i]);
        out.nb[i] = tensor.nb[i];
    }
    out.buffer = handle;
    out.address = handle == 0 ? 0 : reinterpret_cast<uint64_t>(tensor.data);
    return out;
}

// The ids in a message need only be distinct, so they are the addresses.
wire::Tensor stock_tensor(const wire::Region & region) {
    wire::Tensor out{};
    out.id = std::max<uint64_t>(region.address, 1);
    out.type = region.type;
    for (int i = 0; i < wire::max_dims; ++i) {
        out.ne[i] = static_cast<uint32_t>(region.ne[i]);
        out.nb[i] = static_cast<uint32_t>(region.nb[i]);
    }
    out.buffer = region.buffer;
    out.data = region.address;
    return out;
}

Range range_of(const ggml_tensor & tensor) { return range_of(tensor, 0, ggml_nbytes(&tensor)); }

Range range_of(const ggml_tensor & tensor, size_t offset, size_t size) {
    const uint64_t begin = reinterpret_cast<uint64_t>(tensor.data) + offset;
    return {begin, begin + size};
}

CollectedGraph collect_graph(const ggml_cgraph & graph, const HandleOf & handle_of) {
    std::vector<const ggml_tensor *> nodes;
    nodes.reserve(static_cast<size_t>(graph.n_nodes));
    for (int i = 0; i < graph.n_nodes; ++i) {
        if ((graph.nodes[i]->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_is_empty(graph.nodes[i])) {
            nodes.push_back(graph.nodes[i]);
        }
    }
    const std::unordered_set<const ggml_tensor *> computed(nodes.begin(), nodes.end());
    std::unordered_set<const ggml_tensor *> seen;
    CollectedGraph out;
    out.entries.reserve(nodes.size() * 3 / 2);
    const auto add = [&](const ggml_tensor * tensor, bool is_node) {
        const size_t slot = abi::find_slot(graph.visited, tensor);
        out.entries.push_back({tensor, is_node, slot == SIZE_MAX ? 0 : graph.use_counts[slot]});
    };
    const auto add_leaf = [&](const ggml_tensor * tensor) {
        for (; tensor != nullptr && !computed.contains(tensor) && seen.insert(tensor).second;
             tensor = tensor->view_src) {
            add(tensor, false);
        }
    };
    for (const ggml_tensor * node : nodes) {
        for (const ggml_tensor * src : node->src) {
            add_leaf(src);
        }
        add_leaf(node->view_src);
        if (seen.insert(node).second) {
            add(node, true);
        }
    }
    out.footprint = footprint_of(nodes, handle_of);
    out.n_nodes = static_cast<uint32_t>(nodes.size());
    return out;
}

std::vector<std::byte> encode_stock_graph(const CollectedGraph & graph, uint64_t uid, uint32_t device,
                                          const HandleOf & handle_of) {
    const wire::GraphComputeRequest head{device, uid, graph.n_nodes};
    const uint32_t n_tensors = static_cast<uint32_t>(graph.entries.size());
    std::vector<std::byte> payload(sizeof head + graph.n_nodes * sizeof(uint64_t) + sizeof n_tensors +
                                   n_tensors * sizeof(wire::Tensor));
    std::byte * at = payload.data();
    const auto put = [&](const auto & value) {
        store(at, value);
        at += sizeof value;
    };
    put(head);
    for (const CollectedGraph::Entry & entry : graph.entries) {
        if (entry.is_node) {
            put(id_of(entry.tensor));
        }
    }
    put(n_tensors);
    for (const CollectedGraph::Entry & entry : graph.entries) {
        wire::Tensor encoded = encode_alone(*entry.tensor, handle_of);
        for (int i = 0; entry.is_node && i < GGML_MAX_SRC; ++i) {
            encoded.src[i] = id_of(entry.tensor->src[i]);
        }
        encoded.use_count = entry.use_count;
        put(encoded);
    }
    return payload;
}

std::vector<wire::GraphTensor> encode_native_graph(const CollectedGraph & graph, const HandleOf & handle_of) {
    std::unordered_map<const ggml_tensor *, uint32_t> references;
    references.reserve(graph.entries.size());
    std::vector<wire::GraphTensor> out;
    out.reserve(graph.entries.size());
    for (const CollectedGraph::Entry & entry : graph.entries) {
        references.emplace(entry.tensor, static_cast<uint32_t>(references.size() + 1));
    }
    const auto reference_to = [&](const ggml_tensor * tensor) {
        const auto found = references.find(tensor);
        return found == references.end() ? 0 : found->second;
    };
    for (const CollectedGraph::Entry & entry : graph.entries) {
        const ggml_tensor & tensor = *entry.tensor;
        wire::GraphTensor & encoded = out.emplace_back(encode_shape(tensor));
        encoded.use_count = entry.use_count;
        encoded.is_node = entry.is_node ? 1 : 0;
        encoded.view_src = reference_to(tensor.view_src);
        for (int i = 0; entry.is_node && i < GGML_MAX_SRC; ++i) {
            encoded.src[i] = reference_to(tensor.src[i]);
        }
        const ggml_backend_buffer_t buffer = buffer_of(tensor);
        if (buffer != nullptr && handle_of(buffer) != 0) {
            encoded.address = reinterpret_cast<uint64_t>(tensor.data);
        }
        std::memcpy(encoded.name, tensor.name, strnlen(tensor.name, sizeof encoded.name - 1));
    }
    return out;
}

std::vector<wire::GraphTensor> encode_op_query(const ggml_tensor & node) {
    std::vector<wire::GraphTensor> out;
    std::array<uint32_t, GGML_MAX_SRC> references{};
    for (size_t i = 0; i < GGML_MAX_SRC; ++i) {
        const ggml_tensor * src = node.src[i];
        if (src == nullptr) {
            continue;
        }
        const auto same = std::ranges::find(node.src, src);
        const auto first = static_cast<size_t>(same - std::begin(node.src));
        if (first < i) {
            references[i] = references[first];
            continue;
        }
        wire::GraphTensor & encoded = out.emplace_back(encode_shape(*src));
        // The op that produced the source does not matter to a device, and would make equal queries differ.
        encoded.op = GGML_OP_NONE;
        encoded.flags = 0;
        encoded.view_offs = 0;
        std::ranges::fill(encoded.op_params, std::byte{0});
        references[i] = static_cast<uint32_t>(out.size());
    }
    wire::GraphTensor & encoded = out.emplace_back(encode_shape(node));
    encoded.view_offs = 0;
    encoded.is_node = 1;
    std::memcpy(encoded.src, references.data(), sizeof encoded.src);  // not aligned there
    return out;
}

}  // namespace caravan::client
