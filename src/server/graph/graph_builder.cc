#include "server/graph/graph_builder.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "abi/abi_check.h"
#include "abi/moves_no_data.h"
#include "server/graph/tensor_check.h"
#include "server/ops/op_check.h"

namespace caravan::server {
namespace {

template <class T>
void sort_unique(std::vector<T> & values) {
    std::ranges::sort(values);
    const auto rest = std::ranges::unique(values);
    values.erase(rest.begin(), rest.end());
}

// True for devices whose kernels are the CPU's or fall back to them.
bool uses_cpu_kernels(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_CPU || type == GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

class Builder {
public:
    Builder(const GraphDescription & description, ggml_backend_dev_t device, BufferTable & buffers)
        : description_(description), device_(device), is_cpu_(uses_cpu_kernels(device)), buffers_(buffers) {}

    Result<Graph> build() {
        if (auto done = make(); !done) {
            return std::unexpected(done.error());
        }
        if (auto done = add_nodes(); !done) {
            return std::unexpected(done.error());
        }
        static std::atomic<uint64_t> next_uid{1};
        graph_.graph->uid = next_uid.fetch_add(1, std::memory_order_relaxed);
        graph_.indices = fixed_indices({graph_.graph->nodes, static_cast<size_t>(graph_.graph->n_nodes)});
        sort_unique(graph_.buffers);
        for (const uint64_t buffer : graph_.buffers) {
            graph_.devices.push_back(buffers_.find(buffer)->device);
        }
        sort_unique(graph_.devices);
        return std::move(graph_);
    }

    Result<std::vector<uint8_t>> supported() {
        if (auto done = make(); !done) {
            return std::unexpected(done.error());
        }
        std::vector<uint8_t> out;
        for (const uint32_t position : description_.nodes) {
            const ggml_tensor & node = *tensors_[position];
            const bool is_supported = ggml_is_empty(&node) ||
                                      (check_op(node, is_cpu_) && ggml_backend_dev_supports_op(device_, &node));
            out.push_back(is_supported ? 1 : 0);
        }
        return out;
    }

private:
    Result<> make() {
        const size_t count = description_.tensors.size();
        const size_t slots = std::max<size_t>({count, description_.nodes.size(), 1});
        graph_.context.reset(ggml_init({.mem_size = count * ggml_tensor_overhead() +
                                                    ggml_graph_overhead_custom(slots, false),
                                        .mem_buffer = nullptr,
                                        .no_alloc = true}));
        if (graph_.context == nullptr) {
            return fail(Errc::no_memory, "cannot allocate a graph of {} tensors", count);
        }
        graph_.graph = ggml_new_graph_custom(graph_.context.get(), slots, false);
        tensors_.reserve(count);
        for (size_t i = 0; i < count; ++i) {
            if (auto made = make_tensor(description_.tensors[i]); !made) {
                return fail(made.error().code, "tensor {} \"{}\": {}", i, printable_name(description_.tensors[i]),
                            made.error().text);
            }
        }
        return link();
    }

    Result<> make_tensor(const wire::GraphTensor & wired) {
        const uint32_t op = wired.op;
        if (!is_served(op)) {
            return fail(Errc::invalid_argument, "op {} ({}) is not accepted from clients", op,
                        op < GGML_OP_COUNT ? ggml_op_name(static_cast<ggml_op>(op)) : "unknown");
        }
        auto checked = checked_tensor(region_of(wired), buffers_);
        if (!checked) {
            return std::unexpected(checked.error());
        }
        ggml_tensor * tensor = ggml_new_tensor_1d(graph_.context.get(), GGML_TYPE_I8, 1);
        *tensor = *checked;
        tensor->op = static_cast<ggml_op>(op);
        std::memcpy(tensor->op_params, wired.op_params, sizeof tensor->op_params);
        tensor->flags = wired.flags;
        std::memcpy(tensor->name, wired.name, sizeof tensor->name);
        tensor->name[sizeof tensor->name - 1] = '\0';
        tensors_.push_back(tensor);
        if (tensor->buffer != nullptr) {
            graph_.buffers.push_back(buffer_of(wired.address));
        }
        return {};
    }

    // `reference`: position plus 1, or 0 for none.
    Result<ggml_tensor *> find(uint32_t reference) const {
        if (reference > tensors_.size()) {
            return fail(Errc::invalid_argument, "tensor {} is referenced but missing", reference - 1);
        }
        return reference == 0 ? nullptr : tensors_[reference - 1];
    }

    Result<> link() {
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const wire::GraphTensor & wired = description_.tensors[i];
            for (int s = 0; s < wire::max_sources; ++s) {
                const auto src = find(wired.src[s]);
                if (!src) {
                    return std::unexpected(src.error());
                }
                tensors_[i]->src[s] = *src;
            }
            if (auto linked = link_view(*tensors_[i], wired); !linked) {
                return fail(linked.error().code, "tensor {} \"{}\": {}", i, printable_name(wired), linked.error().text);
            }
            const size_t slot = abi::insert_slot(graph_.graph->visited, tensors_[i]);
            if (slot != SIZE_MAX) {
                graph_.graph->use_counts[slot] = std::max<int32_t>(wired.use_count, 0);
            }
        }
        return {};
    }

    // Some back-ends (Vulkan) locate a view by its source and offset, others by its data, so both must agree. A view that is
    // empty or has no data here needs no source.
    Result<> link_view(ggml_tensor & tensor, const wire::GraphTensor & wired) const {
        const auto found = find(wired.view_src);
        if (!found) {
            return std::unexpected(found.error());
        }
        if (*found != nullptr && description_.tensors[wired.view_src - 1].view_src != 0) {
            return fail(Errc::invalid_argument, "its view source is itself a view");
        }
        if (tensor.data == nullptr || ggml_is_empty(&tensor)) {
            return {};
        }
        const uint64_t offset = wired.view_offs;
        if (*found == nullptr) {
            return offset == 0 ? Result<>() : fail(Errc::invalid_argument, "it has view offset {} but no view source", offset);
        }
        const ggml_tensor & source = **found;
        const uint64_t source_bytes = source.data == nullptr ? 0 : ggml_nbytes(&source);
        if (source.buffer != tensor.buffer || offset > source_bytes || ggml_nbytes(&tensor) > source_bytes - offset ||
            static_cast<std::byte *>(source.data) + offset != tensor.data) {
            return fail(Errc::invalid_argument, "the view does not lie at offset {} of the {} bytes of its source",
                        offset, source_bytes);
        }
        tensor.view_src = *found;
        tensor.view_offs = offset;
        return {};
    }

    Result<> add_nodes() {
        for (size_t i = 0; i < description_.nodes.size(); ++i) {
            ggml_tensor * node = tensors_[description_.nodes[i]];
            // Back-ends skip these when computing but still inspect them, and the shapes of an empty node need not match.
            if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || ggml_is_empty(node)) {
                continue;
            }
            if (!abi::moves_no_data(node->op)) {
                if (auto good = check_computable(*node); !good) {
                    return fail(good.error().code, "node {} ({} \"{}\"): {}", i, ggml_op_name(node->op), node->name,
                                good.error().text);
                }
                place_empty_sources(*node);
            }
            ggml_graph_add_node(graph_.graph, node);
        }
        return {};
    }

    // Back-ends assume that each source has a buffer, even an empty one.
    static void place_empty_sources(const ggml_tensor & node) {
        for (ggml_tensor * src : node.src) {
            if (src != nullptr && src->data == nullptr && ggml_is_empty(src)) {
                src->buffer = node.buffer;
                src->data = node.data;
            }
        }
    }

    Result<> check_computable(const ggml_tensor & node) const {
        const auto has_data = [](const ggml_tensor & tensor) {
            return tensor.data != nullptr || ggml_nelements(&tensor) == 0;
        };
        if (!has_data(node)) {
            return fail(Errc::invalid_argument, "its result has no buffer");
        }
        for (int s = 0; s < GGML_MAX_SRC; ++s) {
            if (node.src[s] != nullptr && !has_data(*node.src[s])) {
                return fail(Errc::invalid_argument, "its source {} has no data", s);
            }
        }
        if (auto good = check_op(node, is_cpu_); !good) {
            return good;
        }
        if (!ggml_backend_dev_supports_op(device_, &node)) {
            return fail(Errc::unsupported, "device {} does not support it", ggml_backend_dev_name(device_));
        }
        return {};
    }

    const GraphDescription & description_;
    const ggml_backend_dev_t device_;
    const bool is_cpu_;
    BufferTable & buffers_;
    Graph graph_;
    std::vector<ggml_tensor *> tensors_;
};

}  // namespace

uint64_t Graph::bytes() const { return ggml_get_mem_size(context.get()) + buffers.capacity() * sizeof(uint64_t); }

uint64_t building_bytes(uint64_t wire_bytes, uint64_t n_tensors, uint64_t n_nodes) {
    // A tensor is stored in the description, in the map of ids and in the graph; a node in each list of the graph.
    constexpr uint64_t each_tensor = 1024, each_node = 64;
    return 3 * wire_bytes + each_tensor * n_tensors + each_node * n_nodes;
}

bool Graph::uses(uint64_t buffer) const { return std::ranges::binary_search(buffers, buffer); }

Result<Graph> build_graph(const GraphDescription & description, ggml_backend_dev_t device, BufferTable & buffers) {
    return Builder(description, device, buffers).build();
}

Result<std::vector<uint8_t>> supported_nodes(GraphDescription description, ggml_backend_dev_t device) {
    for (wire::GraphTensor & tensor : description.tensors) {
        tensor.address = 0;
    }
    BufferTable none;
    return Builder(description, device, none).supported();
}

}  // namespace caravan::server
