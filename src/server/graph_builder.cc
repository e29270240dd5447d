#include "server/graph_builder.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>

#include "abi/abi_check.h"
#include "server/op_sources.h"
#include "server/tensor_check.h"

namespace caravan::server {
namespace {

bool moves_no_data(ggml_op op) {
    return op == GGML_OP_NONE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE || op == GGML_OP_PERMUTE ||
           op == GGML_OP_TRANSPOSE;
}

struct Payload {
    wire::GraphComputeRequest head;
    ConstBytes ids;      // head.n_nodes * u64
    ConstBytes tensors;  // whole wire::Tensors

    size_t tensor_count() const { return tensors.size() / sizeof(wire::Tensor); }
    uint64_t node_id(size_t i) const { return load<uint64_t>(ids.data() + i * sizeof(uint64_t)); }
    wire::Tensor tensor(size_t i) const { return load<wire::Tensor>(tensors.data() + i * sizeof(wire::Tensor)); }
};

Result<Payload> split(ConstBytes bytes) {
    Payload out{};
    if (bytes.size() < sizeof out.head + sizeof(uint32_t)) {
        return fail(Errc::protocol, "a graph of {} bytes", bytes.size());
    }
    out.head = load<wire::GraphComputeRequest>(bytes.data());
    bytes = bytes.subspan(sizeof out.head);
    const uint64_t ids_size = uint64_t{out.head.n_nodes} * sizeof(uint64_t);
    if (ids_size > bytes.size() - sizeof(uint32_t)) {
        return fail(Errc::protocol, "a graph that ends within its {} nodes", static_cast<uint32_t>(out.head.n_nodes));
    }
    out.ids = bytes.first(ids_size);
    const auto n_tensors = load<uint32_t>(bytes.data() + ids_size);
    out.tensors = bytes.subspan(ids_size + sizeof(uint32_t));
    if (uint64_t{n_tensors} * sizeof(wire::Tensor) != out.tensors.size()) {
        return fail(Errc::protocol, "a graph that promises {} tensors in {} bytes", n_tensors, out.tensors.size());
    }
    return out;
}

class Builder {
public:
    Builder(const Payload & payload, ggml_backend_dev_t device, BufferTable & buffers)
        : payload_(payload), device_(device), buffers_(buffers) {}

    Result<Graph> build() {
        const size_t slots = std::max<size_t>({payload_.tensor_count(), payload_.head.n_nodes, 1});
        graph_.context.reset(ggml_init({.mem_size = payload_.tensor_count() * ggml_tensor_overhead() +
                                                    ggml_graph_overhead_custom(slots, false),
                                        .mem_buffer = nullptr,
                                        .no_alloc = true}));
        if (graph_.context == nullptr) {
            return fail(Errc::no_memory, "no memory for a graph of {} tensors", payload_.tensor_count());
        }
        graph_.graph = ggml_new_graph_custom(graph_.context.get(), slots, false);
        if (auto done = make_tensors(); !done) {
            return std::unexpected(done.error());
        }
        if (auto done = link(); !done) {
            return std::unexpected(done.error());
        }
        if (auto done = add_nodes(); !done) {
            return std::unexpected(done.error());
        }
        static std::atomic<uint64_t> next_uid{1};
        graph_.graph->uid = next_uid.fetch_add(1, std::memory_order_relaxed);
        std::ranges::sort(graph_.buffers);
        const auto rest = std::ranges::unique(graph_.buffers);
        graph_.buffers.erase(rest.begin(), rest.end());
        return std::move(graph_);
    }

private:
    Result<> make_tensors() {
        const size_t count = payload_.tensor_count();
        tensors_.reserve(count);
        by_id_.reserve(count);
        for (size_t i = 0; i < count; ++i) {
            const wire::Tensor wired = payload_.tensor(i);
            auto checked = checked_tensor(wired, buffers_);
            if (!checked) {
                return fail(checked.error().code, "tensor {} \"{}\": {}", i, printable_name(wired), checked.error().text);
            }
            if (wired.op >= GGML_OP_COUNT || required_sources(static_cast<ggml_op>(wired.op)) < 0) {
                return fail(Errc::invalid_argument, "tensor {} \"{}\": op {} cannot be computed for a peer", i,
                            printable_name(wired), static_cast<uint32_t>(wired.op));
            }
            const uint64_t id = wired.id;  // fields of a packed struct cannot be referred to
            if (id == 0 || !by_id_.emplace(id, static_cast<uint32_t>(i)).second) {
                return fail(Errc::invalid_argument, "tensor {}: id {:#x} is 0 or not unique", i, id);
            }
            ggml_tensor * tensor = ggml_new_tensor_1d(graph_.context.get(), GGML_TYPE_I8, 1);
            *tensor = *checked;
            tensor->op = static_cast<ggml_op>(wired.op);
            std::memcpy(tensor->op_params, wired.op_params, sizeof tensor->op_params);
            tensor->flags = wired.flags;
            tensor->view_offs = wired.view_offs;
            std::memcpy(tensor->name, wired.name, sizeof tensor->name);
            tensor->name[sizeof tensor->name - 1] = '\0';
            tensors_.push_back(tensor);
            if (wired.buffer != 0) {
                graph_.buffers.push_back(uint64_t{wired.buffer});
            }
        }
        return {};
    }

    Result<ggml_tensor *> find(uint64_t id) const {
        if (id == 0) {
            return nullptr;
        }
        const auto found = by_id_.find(id);
        if (found == by_id_.end()) {
            return fail(Errc::invalid_argument, "tensor id {:#x} is named but not given", id);
        }
        return tensors_[found->second];
    }

    Result<> link() {
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const wire::Tensor wired = payload_.tensor(i);
            for (int s = 0; s < wire::max_sources; ++s) {
                const auto src = find(wired.src[s]);
                if (!src) {
                    return std::unexpected(src.error());
                }
                tensors_[i]->src[s] = *src;
            }
            const auto view_src = find(wired.view_src);
            if (!view_src) {
                return std::unexpected(view_src.error());
            }
            tensors_[i]->view_src = *view_src;
            const size_t slot = abi::insert_slot(graph_.graph->visited, tensors_[i]);
            if (slot != SIZE_MAX) {
                graph_.graph->use_counts[slot] = std::max<int32_t>(wired.use_count, 0);
            }
        }
        return {};
    }

    Result<> add_nodes() {
        for (size_t i = 0; i < payload_.head.n_nodes; ++i) {
            const auto found = find(payload_.node_id(i));
            if (!found || *found == nullptr) {
                return fail(Errc::invalid_argument, "node {} is not among the tensors", i);
            }
            ggml_tensor * node = *found;
            if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0) {
                continue;  // back-ends would skip it, but not without looking at it
            }
            if (!moves_no_data(node->op)) {
                if (auto good = check_computable(*node); !good) {
                    return fail(good.error().code, "node {} ({} \"{}\"): {}", i, ggml_op_name(node->op), node->name,
                                good.error().text);
                }
            }
            ggml_graph_add_node(graph_.graph, node);
        }
        return {};
    }

    Result<> check_computable(const ggml_tensor & node) const {
        const auto has_data = [](const ggml_tensor & tensor) {
            return tensor.data != nullptr || ggml_nelements(&tensor) == 0;
        };
        if (!has_data(node)) {
            return fail(Errc::invalid_argument, "its result has no place in a buffer");
        }
        for (int s = 0; s < GGML_MAX_SRC; ++s) {
            if (node.src[s] == nullptr && s < required_sources(node.op)) {
                return fail(Errc::invalid_argument, "its source {} is missing", s);
            }
            if (node.src[s] != nullptr && !has_data(*node.src[s])) {
                return fail(Errc::invalid_argument, "its source {} has no data", s);
            }
        }
        if (!ggml_backend_dev_supports_op(device_, &node)) {
            return fail(Errc::unsupported, "{} does not support it", ggml_backend_dev_name(device_));
        }
        return {};
    }

    const Payload & payload_;
    const ggml_backend_dev_t device_;
    BufferTable & buffers_;
    Graph graph_;
    std::vector<ggml_tensor *> tensors_;
    std::unordered_map<uint64_t, uint32_t> by_id_;
};

}  // namespace

bool Graph::uses(uint64_t buffer) const { return std::ranges::binary_search(buffers, buffer); }

Result<Graph> build_graph(ConstBytes bytes, ggml_backend_dev_t device, BufferTable & buffers) {
    const auto payload = split(bytes);
    if (!payload) {
        return std::unexpected(payload.error());
    }
    return Builder(*payload, device, buffers).build();
}

}  // namespace caravan::server
