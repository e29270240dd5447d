// Helpers and messages of op_shapes*.cc. Arithmetic on sizes uses 128 bits: each size and element count fits into 55 bits
// (tensor_check.h), each parameter into 32.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "server/ops/op_shapes.h"

namespace caravan::server::shapes {

__extension__ using Wide = __int128;
using Tensor = ggml_tensor;

inline constexpr Violation wrong_shape = "its result has the wrong shape for its sources and parameters";
inline constexpr Violation mismatched_sources = "the shapes of its sources do not match";
inline constexpr Violation bad_parameter = "a parameter is out of range";
inline constexpr Violation bad_layout = "its sources have an unsupported memory layout";

inline const Tensor & source(const Tensor & node, int index) { return *node.src[index]; }

inline int32_t parameter(const Tensor & node, int index) { return node.op_params[index]; }
inline float real(const Tensor & node, int index) {
    float value = 0;
    std::memcpy(&value, &node.op_params[index], sizeof value);
    return value;
}

inline bool has_shape(const Tensor & tensor, const std::array<Wide, 4> & ne) {
    return std::ranges::equal(tensor.ne, ne, [](int64_t is, Wide expected) { return is == expected; });
}
inline Violation expect(const Tensor & node, Wide ne0, Wide ne1, Wide ne2, Wide ne3) {
    return has_shape(node, {ne0, ne1, ne2, ne3}) ? nullptr : wrong_shape;
}

inline bool same_shape(const Tensor & a, const Tensor & b) { return ggml_are_same_shape(&a, &b); }
inline Wide elements(const Tensor & tensor) {
    return Wide{tensor.ne[0]} * tensor.ne[1] * tensor.ne[2] * tensor.ne[3];
}
// True if `whole` is a multiple of `part`.
inline bool divides(int64_t part, int64_t whole) { return part == 0 ? whole == 0 : whole % part == 0; }
inline bool repeats(const Tensor & small, const Tensor & large) {
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (!divides(small.ne[i], large.ne[i])) {
            return false;
        }
    }
    return true;
}

// True if the tensor spans at least as many bytes as its elements have, so that a kernel which ignores strides stays inside it.
inline bool dense(const Tensor & tensor) {
    const Wide blocks = elements(tensor) / ggml_blck_size(tensor.type);
    return Wide{ggml_nbytes(&tensor)} >= blocks * static_cast<Wide>(ggml_type_size(tensor.type));
}

}  // namespace caravan::server::shapes
