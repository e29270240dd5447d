#include "server/graph/graph_description.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "server/graph/tensor_check.h"

namespace caravan::server {
namespace {

// Maps the ids of the stock dialect, which are arbitrary unique numbers, to positions.
class Positions {
public:
    Result<> add(uint64_t id, uint32_t position) {
        if (id == 0 || !by_id_.emplace(id, position).second) {
            return fail(Errc::invalid_argument, "tensor {}: id {:#x} is 0 or not unique", position, id);
        }
        return {};
    }
    std::optional<uint32_t> find(uint64_t id) const {
        const auto found = by_id_.find(id);
        return found == by_id_.end() ? std::nullopt : std::optional(found->second);
    }
    // Position plus 1, or 0 for none, as in GraphTensor.
    Result<uint32_t> reference(uint64_t id) const {
        const auto position = find(id);
        if (id != 0 && !position) {
            return fail(Errc::invalid_argument, "tensor id {:#x} is referenced but missing", id);
        }
        return id == 0 ? 0 : *position + 1;
    }

private:
    std::unordered_map<uint64_t, uint32_t> by_id_;
};

Result<wire::GraphTensor> from_stock(const wire::Tensor & wired, const Positions & positions) {
    const uint64_t buffer = wired.buffer;
    uint64_t address = wired.data;
    const bool is_empty = std::ranges::contains(wire::Region(wired).ne, 0u);
    if (is_empty && (buffer == 0 || buffer_of(address) != buffer)) {
        address = buffer;  // ggml may place an empty view outside its buffer
    }
    if (buffer == 0 ? address != 0 : buffer_of(address) != buffer) {
        return fail(Errc::invalid_argument, "address {:#x} lies outside buffer {:#x}", address, buffer);
    }
    wire::GraphTensor out{};
    out.type = wired.type;
    out.op = wired.op;
    out.flags = wired.flags;
    out.use_count = wired.use_count;
    out.view_offs = wired.view_offs;
    for (int i = 0; i < wire::max_dims; ++i) {
        out.ne[i] = wired.ne[i];
        out.nb[i] = wired.nb[i];
    }
    out.address = address;
    std::memcpy(out.op_params, wired.op_params, sizeof out.op_params);
    std::memcpy(out.name, wired.name, sizeof out.name);
    for (int s = 0; s < wire::max_sources; ++s) {
        const auto src = positions.reference(wired.src[s]);
        if (!src) {
            return std::unexpected(src.error());
        }
        out.src[s] = *src;
    }
    const auto view_src = positions.reference(wired.view_src);
    if (!view_src) {
        return std::unexpected(view_src.error());
    }
    out.view_src = *view_src;
    return out;
}

}  // namespace

Result<GraphDescription> describe_stock_graph(ConstBytes bytes) {
    wire::GraphComputeRequest head{};
    if (bytes.size() < sizeof head + sizeof(uint32_t)) {
        return fail(Errc::protocol, "the graph has only {} bytes", bytes.size());
    }
    head = load<wire::GraphComputeRequest>(bytes.data());
    bytes = bytes.subspan(sizeof head);
    const uint64_t ids_size = uint64_t{head.n_nodes} * sizeof(uint64_t);
    if (ids_size > bytes.size() - sizeof(uint32_t)) {
        return fail(Errc::protocol, "the graph is truncated within its {} nodes", static_cast<uint32_t>(head.n_nodes));
    }
    const ConstBytes ids = bytes.first(ids_size);
    const auto n_tensors = load<uint32_t>(bytes.data() + ids_size);
    const ConstBytes tensors = bytes.subspan(ids_size + sizeof(uint32_t));
    if (uint64_t{n_tensors} * sizeof(wire::Tensor) != tensors.size()) {
        return fail(Errc::protocol, "the graph announces {} tensors in {} bytes", n_tensors, tensors.size());
    }
    const auto wired = [&](size_t i) { return load<wire::Tensor>(tensors.data() + i * sizeof(wire::Tensor)); };
    Positions positions;
    for (uint32_t i = 0; i < n_tensors; ++i) {
        if (auto added = positions.add(wired(i).id, i); !added) {
            return std::unexpected(added.error());
        }
    }
    GraphDescription out;
    for (uint32_t i = 0; i < n_tensors; ++i) {
        auto tensor = from_stock(wired(i), positions);
        if (!tensor) {
            return std::unexpected(tensor.error());
        }
        out.tensors.push_back(*tensor);
    }
    for (uint32_t i = 0; i < head.n_nodes; ++i) {
        const auto position = positions.find(load<uint64_t>(ids.data() + i * sizeof(uint64_t)));
        if (!position) {
            return fail(Errc::invalid_argument, "node {} is not among the tensors", i);
        }
        out.nodes.push_back(*position);
    }
    return out;
}

GraphDescription describe_graph(std::vector<wire::GraphTensor> tensors) {
    GraphDescription out{std::move(tensors), {}};
    for (uint32_t i = 0; i < out.tensors.size(); ++i) {
        if (out.tensors[i].is_node != 0) {
            out.nodes.push_back(i);
        }
    }
    return out;
}

}  // namespace caravan::server
