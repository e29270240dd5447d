#include "server/graph/warm_graphs.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>
#include <unordered_set>

#include "ggml.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

#pragma pack(push, 1)
struct Header {
    uint32_t device, n_tensors, size;  // size: of the difference that follows, bytes
};
#pragma pack(pop)

struct SourceShape {
    uint64_t type;  // plus 1; 0: there is no source
    uint64_t ne[wire::max_dims], nb[wire::max_dims], misalignment;
};

// A back-end computes some sequences of nodes with one kernel. These are the nodes before and after one that may affect it.
constexpr size_t nodes_before = 1, nodes_after = 10;
// Kernels may differ for tensors at other offsets, modulo this.
constexpr uint64_t alignment = 256;

uint64_t hash_bytes(const void * bytes, size_t size) {
    return std::hash<std::string_view>()({static_cast<const char *>(bytes), size});
}

// Null for none, and for a reference to no tensor.
const wire::GraphTensor * referenced(std::span<const wire::GraphTensor> tensors, uint32_t reference) {
    return reference == 0 || reference > tensors.size() ? nullptr : &tensors[reference - 1];
}

// A tensor without name, address and references.
wire::GraphTensor anonymous(const wire::GraphTensor & tensor) {
    wire::GraphTensor out = tensor;
    out.view_src = 0;
    out.address = 0;
    std::ranges::fill(out.src, 0u);
    std::ranges::fill(out.name, '\0');
    return out;
}

// Equal for nodes that a device computes with the same kernel.
uint64_t signature(const GraphView & graph, const wire::GraphTensor & node) {
    struct {
        wire::GraphTensor node;
        SourceShape sources[wire::max_sources];
    } shape{};
    static_assert(sizeof shape == sizeof(wire::GraphTensor) + wire::max_sources * sizeof(SourceShape));
    shape.node = anonymous(node);
    shape.node.view_offs %= alignment;
    for (int s = 0; s < wire::max_sources; ++s) {
        if (const wire::GraphTensor * source = referenced(graph.tensors, node.src[s])) {
            shape.sources[s].type = uint64_t{source->type} + 1;
            std::ranges::copy(source->ne, shape.sources[s].ne);
            std::ranges::copy(source->nb, shape.sources[s].nb);
            shape.sources[s].misalignment = source->view_offs % alignment;
        }
    }
    return hash_bytes(&shape, sizeof shape) + graph.device;
}

// For each tensor whether it is a node whose neighbourhood is not in `seen`, where all are inserted.
std::vector<bool> new_nodes(const GraphView & graph, std::unordered_set<uint64_t> & seen) {
    std::vector<size_t> positions;
    std::vector<uint64_t> signatures(nodes_before, 0);
    for (size_t i = 0; i < graph.tensors.size(); ++i) {
        if (graph.tensors[i].is_node != 0) {
            positions.push_back(i);
            signatures.push_back(signature(graph, graph.tensors[i]));
        }
    }
    signatures.resize(signatures.size() + nodes_after, 0);
    std::vector<bool> is_new(graph.tensors.size());
    for (size_t n = 0; n < positions.size(); ++n) {
        constexpr size_t size = (nodes_before + 1 + nodes_after) * sizeof(uint64_t);
        is_new[positions[n]] = seen.insert(hash_bytes(&signatures[n], size)).second;
    }
    return is_new;
}

WarmGraph reduced(const GraphView & graph, std::unordered_set<uint64_t> & seen) {
    const std::vector<bool> is_new = new_nodes(graph, seen);
    std::vector<bool> is_used = is_new;
    const auto use = [&](uint32_t reference) {
        if (referenced(graph.tensors, reference) != nullptr) {
            is_used[reference - 1] = true;
        }
    };
    for (size_t i = 0; i < graph.tensors.size(); ++i) {
        if (is_new[i]) {
            std::ranges::for_each(graph.tensors[i].src, use);
        }
    }
    for (size_t i = 0; i < graph.tensors.size(); ++i) {  // the source of a view is no view
        if (is_used[i]) {
            use(graph.tensors[i].view_src);
        }
    }
    std::vector<uint32_t> references(graph.tensors.size() + 1);  // old to new
    uint32_t count = 0;
    for (size_t i = 0; i < graph.tensors.size(); ++i) {
        references[i + 1] = is_used[i] ? ++count : 0;
    }
    const auto renumbered = [&](uint32_t reference) { return reference < references.size() ? references[reference] : 0; };
    WarmGraph out{graph.device, {}};
    for (size_t i = 0; i < graph.tensors.size(); ++i) {
        const wire::GraphTensor & from = graph.tensors[i];
        if (!is_used[i]) {
            continue;
        }
        wire::GraphTensor & tensor = out.tensors.emplace_back(anonymous(from));
        tensor.view_src = renumbered(from.view_src);
        if (is_new[i]) {
            std::ranges::transform(from.src, std::begin(tensor.src), renumbered);
        } else {
            tensor.is_node = 0;
            tensor.op = GGML_OP_NONE;
            std::ranges::fill(tensor.op_params, std::byte{0});
        }
    }
    return out;
}

void append(const WarmGraph & graph, std::vector<std::byte> & out) {
    const size_t begin = out.size();
    out.resize(begin + sizeof(Header));
    wire::encode_difference({}, graph.tensors, out);
    store(out.data() + begin, Header{graph.device, static_cast<uint32_t>(graph.tensors.size()),
                                     static_cast<uint32_t>(out.size() - begin - sizeof(Header))});
}

}  // namespace

uint64_t hash_of(const WarmGraph & graph) {
    return hash_bytes(graph.tensors.data(), graph.tensors.size() * sizeof(wire::GraphTensor)) + graph.device;
}

double work_of(const WarmGraph & graph) {
    double work = 0;
    for (const wire::GraphTensor & tensor : graph.tensors) {
        if (tensor.is_node == 0) {
            continue;
        }
        double each = 1;
        const wire::GraphTensor * source = referenced(graph.tensors, tensor.src[0]);
        if ((tensor.op == GGML_OP_MUL_MAT || tensor.op == GGML_OP_MUL_MAT_ID) && source != nullptr) {
            each = static_cast<double>(source->ne[0]);
        }
        for (const uint64_t length : tensor.ne) {
            each *= static_cast<double>(length);
        }
        work += each;
    }
    return work;
}

std::vector<std::byte> encode_warm_graphs(const std::vector<GraphView> & graphs, size_t limit) {
    std::unordered_set<uint64_t> seen;
    std::vector<std::pair<double, WarmGraph>> kept;
    size_t n_tensors = 0;
    for (const GraphView & graph : graphs) {
        n_tensors += graph.tensors.size();
        if (n_tensors > tunable::max_warm_up_tensors) {
            break;
        }
        if (WarmGraph small = reduced(graph, seen); !small.tensors.empty()) {
            const double work = work_of(small);
            kept.emplace_back(work, std::move(small));
        }
    }
    std::ranges::stable_sort(kept, {}, [](const auto & graph) { return graph.first; });
    std::vector<std::byte> out;
    for (const auto & [work, graph] : kept) {
        const size_t before = out.size();
        append(graph, out);
        if (out.size() > limit) {
            out.resize(before);
        }
    }
    return out;
}

std::vector<WarmGraph> decode_warm_graphs(ConstBytes bytes) {
    std::vector<WarmGraph> graphs;
    size_t n_tensors = 0;
    while (bytes.size() >= sizeof(Header)) {
        const auto header = load<Header>(bytes.data());
        bytes = bytes.subspan(sizeof header);
        n_tensors += header.n_tensors;
        if (header.n_tensors == 0 || n_tensors > tunable::max_warm_up_tensors || header.size > bytes.size()) {
            break;
        }
        auto tensors = wire::decode_difference({}, header.n_tensors, bytes.first(header.size));
        if (!tensors) {
            break;
        }
        graphs.push_back({header.device, std::move(*tensors)});
        bytes = bytes.subspan(header.size);
    }
    return graphs;
}

}  // namespace caravan::server
