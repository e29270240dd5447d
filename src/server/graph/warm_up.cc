#include "server/graph/warm_up.h"

#include <algorithm>

#include "abi/moves_no_data.h"
#include "server/graph/graph_builder.h"
#include "server/graph/tensor_check.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

constexpr uint64_t region_alignment = 4096;  // at least that of any back-end
constexpr uint64_t padding = 64 << 10;       // kernels of quantized types may read beyond a tensor's last row

uint64_t aligned(uint64_t size) { return (size + region_alignment - 1) / region_alignment * region_alignment; }

bool holds_row_numbers(const wire::GraphTensor & tensor) {
    return tensor.view_src == 0 && (tensor.type == GGML_TYPE_I32 || tensor.type == GGML_TYPE_I64);
}

// Places tensors in three regions of one buffer: all row numbers at the beginning of the first, other tensors that are no
// results at that of the second, and results one after the other in the third, because back-ends fuse no nodes whose results
// overlap.
class Layout {
public:
    // Changes `tensors`, which must outlive this. `limit`: of the bytes of a tensor. Row numbers and tensors beyond the limit
    // are not computed.
    static Result<Layout> make(std::vector<wire::GraphTensor> & tensors, uint64_t limit) {
        Layout layout(tensors);
        return layout.measure(limit).transform([&] { return std::move(layout); });
    }
    uint64_t index_size() const { return index_size_; }
    uint64_t size() const { return index_size_ + data_size_ + results_size_ + padding; }

    // Sets the addresses. Tensors beyond the limit have none.
    void place(uint64_t buffer) {
        for (size_t i = 0; i < tensors_.size(); ++i) {
            wire::GraphTensor & tensor = tensors_[i];
            const wire::GraphTensor & root = tensor.view_src == 0 ? tensor : tensors_[tensor.view_src - 1];
            tensor.address = is_large_[i] ? 0 : buffer + place_of(root) + tensor.view_offs;
        }
    }

private:
    explicit Layout(std::vector<wire::GraphTensor> & tensors)
        : tensors_(tensors), is_large_(tensors.size()), offset_(tensors.size()) {}

    uint64_t place_of(const wire::GraphTensor & root) const {
        return holds_row_numbers(root) ? 0
               : root.is_node == 0     ? index_size_
                                       : index_size_ + data_size_ + offset_[static_cast<size_t>(&root - tensors_.data())];
    }

    Result<> measure(uint64_t limit) {
        for (size_t i = 0; i < tensors_.size(); ++i) {
            wire::GraphTensor & tensor = tensors_[i];
            const auto bytes = checked_bytes(region_of(tensor));
            if (!bytes) {
                return std::unexpected(bytes.error());
            }
            if (tensor.view_src > tensors_.size() ||
                (tensor.view_src != 0 && tensors_[tensor.view_src - 1].view_src != 0)) {
                return fail(Errc::invalid_argument, "a view of nothing or of a view");
            }
            is_large_[i] = *bytes > limit;
            if (holds_row_numbers(tensor)) {
                tensor.is_node = 0;
            }
            if (tensor.view_src == 0) {
                tensor.view_offs = 0;
            }
        }
        if (auto left = leave_out_large(); !left) {
            return left;
        }
        uint64_t next_result = 0;
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const wire::GraphTensor & tensor = tensors_[i];
            if (tensor.view_src != 0 || is_large_[i]) {
                continue;
            }
            const uint64_t size = aligned(checked_bytes(region_of(tensor)).value_or(0));
            if (tensor.is_node == 0) {
                uint64_t & region = holds_row_numbers(tensor) ? index_size_ : data_size_;
                region = std::max(region, size);
                continue;
            }
            if (next_result + size > aligned(limit)) {
                next_result = 0;
            }
            offset_[i] = next_result;
            next_result += size;
            results_size_ = std::max(results_size_, next_result);
        }
        return {};
    }

    Result<> leave_out_large() {
        const auto is_large = [&](uint32_t reference) {
            return reference != 0 && reference <= tensors_.size() && is_large_[reference - 1];
        };
        for (size_t i = 0; i < tensors_.size(); ++i) {
            is_large_[i] = is_large_[i] || is_large(tensors_[i].view_src);
        }
        bool has_nodes = false;
        for (size_t i = 0; i < tensors_.size(); ++i) {
            if (is_large_[i] || std::ranges::any_of(tensors_[i].src, is_large)) {
                tensors_[i].is_node = 0;
            }
            has_nodes = has_nodes || tensors_[i].is_node != 0;
        }
        return has_nodes ? Result<>() : fail(Errc::no_memory, "it has no nodes, or only such with large tensors");
    }

    std::vector<wire::GraphTensor> & tensors_;
    std::vector<bool> is_large_;
    std::vector<uint64_t> offset_;  // in the third region
    uint64_t index_size_ = 0, data_size_ = 0, results_size_ = 0;
};

// Row numbers must be zeros: they lie in the first region, no node writes there, and there is a row.
Result<> check_row_numbers(const Graph & graph, const std::byte * begin, uint64_t index_size) {
    const auto lies_there = [&](const ggml_tensor & tensor) {
        const auto * data = static_cast<const std::byte *>(tensor.data);
        return data >= begin && data < begin + index_size;
    };
    for (int i = 0; i < ggml_graph_n_nodes(graph.graph); ++i) {
        const ggml_tensor & node = *ggml_graph_node(graph.graph, i);
        if (abi::moves_no_data(node.op)) {
            continue;
        }
        if (lies_there(node)) {
            return fail(Errc::unsupported, "it writes row numbers");
        }
        const auto indices = indices_of(node);
        if (indices && !lies_there(*indices->tensor)) {
            return fail(Errc::unsupported, "it computes row numbers");
        }
        if (indices && indices->limit < 1) {
            return fail(Errc::unsupported, "it reads a row of a tensor without rows");
        }
    }
    return {};
}

}  // namespace

Result<> WarmUp::compute(const WarmGraph & graph) {
    if (auto good = devices_.check(graph.device); !good) {
        return good;
    }
    const uint64_t limit = std::min({tunable::max_warm_up_memory, devices_.memory()[graph.device].free / 8,
                                     devices_.facts(graph.device).max_size / 4});
    std::vector<wire::GraphTensor> tensors = graph.tensors;
    auto layout = Layout::make(tensors, limit);
    if (!layout) {
        return std::unexpected(layout.error());
    }
    BufferTable buffers;
    const auto buffer = buffers.allocate(devices_.buffer_type(graph.device), graph.device, layout->size());
    if (!buffer) {
        return std::unexpected(buffer.error());
    }
    layout->place(*buffer);
    const auto built = build_graph(describe_graph(std::move(tensors)), devices_.device(graph.device), buffers);
    if (!built) {
        return std::unexpected(built.error());
    }
    if (auto good = check_row_numbers(*built, buffers.find(*buffer)->base, layout->index_size()); !good) {
        return good;
    }
    Devices::Backend & backend = backends_[graph.device];
    if (backend == nullptr) {
        backend = devices_.another_backend(graph.device);
    }
    if (backend == nullptr) {
        return fail(Errc::unavailable, "cannot initialize the device again");
    }
    const ggml_status status = ggml_backend_graph_compute_async(backend.get(), built->graph);
    ggml_backend_synchronize(backend.get());
    return status == GGML_STATUS_SUCCESS ? Result<>() : fail(Errc::unavailable, "the device failed to compute it");
}

}  // namespace caravan::server
