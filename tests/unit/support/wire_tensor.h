// Builds tensors and graphs in the layout of the stock dialect.
#pragma once

#include <array>
#include <vector>

#include "ggml.h"
#include "wire/stock.h"
#include "support/wire_peer.h"

namespace caravan::test {

using Shape = std::array<uint32_t, 4>;

// Contiguous.
inline wire::Tensor wire_tensor(uint64_t id, ggml_type type, Shape ne, uint64_t buffer, uint64_t data) {
    wire::Tensor out{};
    out.id = id;
    out.type = static_cast<uint32_t>(type);
    out.buffer = buffer;
    out.data = data;
    uint32_t stride = static_cast<uint32_t>(ggml_type_size(type));
    for (int i = 0; i < 4; ++i) {
        out.ne[i] = ne[i];
        out.nb[i] = stride;
        stride = i == 0 ? static_cast<uint32_t>(ggml_row_size(type, ne[0])) : stride * ne[i];
    }
    return out;
}

inline wire::Tensor f32_tensor(uint64_t id, Shape ne, uint64_t buffer, uint64_t data) {
    return wire_tensor(id, GGML_TYPE_F32, ne, buffer, data);
}

// `tensor`, as the result of an op.
inline wire::Tensor node_of(wire::Tensor tensor, ggml_op op, const std::vector<uint64_t> & sources) {
    tensor.op = static_cast<uint32_t>(op);
    tensor.flags = GGML_TENSOR_FLAG_COMPUTE;
    for (size_t i = 0; i < sources.size(); ++i) {
        tensor.src[i] = sources[i];
    }
    return tensor;
}

inline std::vector<std::byte> graph_payload(uint32_t device, uint64_t uid, const std::vector<uint64_t> & nodes,
                                            const std::vector<wire::Tensor> & tensors) {
    auto out = bytes_of(wire::GraphComputeRequest{device, uid, static_cast<uint32_t>(nodes.size())});
    for (const uint64_t id : nodes) {
        out = std::move(out) + bytes_of(id);
    }
    out = std::move(out) + bytes_of(static_cast<uint32_t>(tensors.size()));
    for (const wire::Tensor & tensor : tensors) {
        out = std::move(out) + bytes_of(tensor);
    }
    return out;
}

inline std::vector<std::byte> floats(const std::vector<float> & values) {
    const auto view = const_bytes(values.data(), values.size() * sizeof(float));
    return {view.begin(), view.end()};
}

inline std::vector<float> as_floats(ConstBytes bytes) {
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
    return out;
}

}  // namespace caravan::test
