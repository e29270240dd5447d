// Element-wise ops, reductions and rearrangements.
#include "server/ops/op_shapes.h"

#include <cmath>

#include "server/ops/op_shape_terms.h"

namespace caravan::server::shapes {
namespace {

template <class Condition>
bool every_tensor(const Tensor & node, Condition holds) {
    for (const Tensor * src : node.src) {
        if (src != nullptr && !holds(*src)) {
            return false;
        }
    }
    return holds(node);
}

Violation same_if(bool condition, const Tensor & node, Violation otherwise) {
    return condition ? same(node) : otherwise;
}

// Bytes from the first element to the end of the last, with strides `nb`.
Wide bytes_spanned(const Tensor & tensor, const std::array<Wide, 4> & nb) {
    if (elements(tensor) == 0) {
        return 0;
    }
    Wide bytes = static_cast<Wide>(ggml_type_size(tensor.type));
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        bytes += (tensor.ne[i] - 1) * nb[static_cast<size_t>(i)];
    }
    return bytes;
}

}  // namespace

Violation same(const Tensor & node) { return same_shape(node, source(node, 0)) ? nullptr : wrong_shape; }

Violation all_same(const Tensor & node) {
    return same_if(same_shape(source(node, 0), source(node, 1)), node, mismatched_sources);
}

Violation binary(const Tensor & node) { return same_if(repeats(source(node, 1), source(node, 0)), node, mismatched_sources); }

Violation add_id(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1), &ids = source(node, 2);
    const bool fit = has_shape(b, {a.ne[0], b.ne[1], 1, 1}) && has_shape(ids, {a.ne[1], a.ne[2], 1, 1});
    return same_if(fit, node, mismatched_sources);
}

Violation add1(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1);
    return same_if(has_shape(b, {1, 1, 1, 1}) && (b.type == GGML_TYPE_F32 || b.type == a.type), node, mismatched_sources);
}

// The parameters place source 1 in the result: three strides and an offset, in bytes.
Violation window(const Tensor & node) {
    const Tensor & part = source(node, 1);
    if (ggml_blck_size(part.type) != 1 || !ggml_is_contiguous(&source(node, 0)) || !ggml_is_contiguous(&node)) {
        return bad_layout;
    }
    std::array<Wide, 4> nb{static_cast<Wide>(ggml_type_size(part.type))};
    for (int i = 1; i < GGML_MAX_DIMS; ++i) {
        const int32_t stride = parameter(node, i - 1);
        if (part.ne[i] > 1 && stride < 0) {
            return bad_parameter;
        }
        nb[static_cast<size_t>(i)] = part.ne[i] > 1 ? stride : 0;
    }
    const int32_t offset = parameter(node, 3);
    if (offset < 0 || offset + bytes_spanned(part, nb) > static_cast<Wide>(ggml_nbytes(&node))) {
        return bad_parameter;
    }
    return same(node);
}

Violation copy(const Tensor & node) {
    const Tensor &from = source(node, 0), &to = source(node, 1);
    return elements(from) != elements(to) ? mismatched_sources : same_shape(node, to) ? nullptr : wrong_shape;
}

Violation cont(const Tensor & node) { return elements(node) == elements(source(node, 0)) ? nullptr : wrong_shape; }

Violation unary(const Tensor & node) {
    const int32_t kind = parameter(node, 0);
    return same_if(kind >= 0 && kind < GGML_UNARY_OP_COUNT, node, bad_parameter);
}

Violation glu(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const int32_t kind = parameter(node, 0);
    if (kind < 0 || kind >= GGML_GLU_OP_COUNT) {
        return bad_parameter;
    }
    if (!ggml_is_contiguous_1(&a)) {
        return bad_layout;
    }
    if (node.src[1] == nullptr) {
        return expect(node, a.ne[0] / 2, a.ne[1], a.ne[2], a.ne[3]);
    }
    return ggml_is_contiguous_1(node.src[1]) ? all_same(node) : bad_layout;
}

// The comparison also refuses NaN.
Violation norm(const Tensor & node) { return same_if(real(node, 0) >= 0, node, bad_parameter); }

Violation norm_back(const Tensor & node) {
    return same_shape(source(node, 0), source(node, 1)) ? norm(node) : mismatched_sources;
}

Violation group_norm(const Tensor & node) {
    return same_if(parameter(node, 0) >= 1 && real(node, 1) >= 0, node, bad_parameter);
}

Violation diag_mask(const Tensor & node) { return same_if(parameter(node, 0) >= 0, node, bad_parameter); }

Violation contiguous(const Tensor & node) {
    return same_if(ggml_is_contiguous(&source(node, 0)) && ggml_is_contiguous(&node), node, bad_layout);
}

Violation tri(const Tensor & node) {
    const int32_t kind = parameter(node, 0);
    if (kind < GGML_TRI_TYPE_UPPER_DIAG || kind > GGML_TRI_TYPE_LOWER) {
        return bad_parameter;
    }
    return source(node, 0).ne[0] == source(node, 0).ne[1] ? contiguous(node) : mismatched_sources;
}

Violation roll(const Tensor & node) {
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        const int64_t shift = parameter(node, i), ne = source(node, 0).ne[i];
        if (shift >= ne || -shift >= ne) {
            return bad_parameter;
        }
    }
    return same(node);
}

Violation adamw(const Tensor & node) {
    const Tensor & a = source(node, 0);
    for (int i = 1; i < 4; ++i) {
        if (!same_shape(a, source(node, i))) {
            return mismatched_sources;
        }
    }
    return same_if(elements(source(node, 4)) == 7 && ggml_is_contiguous(&source(node, 4)), node, mismatched_sources);
}

Violation sgd(const Tensor & node) {
    const Tensor & parameters = source(node, 2);
    return elements(parameters) == 2 && ggml_is_contiguous(&parameters) ? all_same(node) : mismatched_sources;
}

Violation scalar(const Tensor & node) { return expect(node, 1, 1, 1, 1); }

Violation scalar_of_same(const Tensor & node) {
    return same_shape(source(node, 0), source(node, 1)) ? scalar(node) : mismatched_sources;
}

Violation one_per_row(const Tensor & node) {
    const Tensor & a = source(node, 0);
    return expect(node, 1, a.ne[1], a.ne[2], a.ne[3]);
}

Violation argmax(const Tensor & node) {
    const Tensor & a = source(node, 0);
    if (a.ne[2] != 1 || a.ne[3] != 1 || a.ne[0] > INT32_MAX) {
        return mismatched_sources;
    }
    return expect(node, a.ne[1], 1, 1, 1);
}

Violation argsort(const Tensor & node) {
    const int32_t order = parameter(node, 0);
    if (order != GGML_SORT_ORDER_ASC && order != GGML_SORT_ORDER_DESC) {
        return bad_parameter;
    }
    return same_if(source(node, 0).ne[0] <= INT32_MAX, node, mismatched_sources);
}

Violation top_k(const Tensor & node) {
    const Tensor & a = source(node, 0);
    if (a.ne[0] > INT32_MAX) {
        return mismatched_sources;
    }
    return expect(node, std::min(node.ne[0], a.ne[0]), a.ne[1], a.ne[2], a.ne[3]);
}

Violation repeat(const Tensor & node) { return repeats(source(node, 0), node) ? nullptr : wrong_shape; }

Violation repeat_back(const Tensor & node) { return repeats(node, source(node, 0)) ? nullptr : wrong_shape; }

Violation concat(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1);
    const int32_t dim = parameter(node, 0);
    if (dim < 0 || dim >= GGML_MAX_DIMS) {
        return bad_parameter;
    }
    std::array<Wide, 4> ne{};
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (i != dim && a.ne[i] != b.ne[i]) {
            return mismatched_sources;
        }
        ne[static_cast<size_t>(i)] = i == dim ? Wide{a.ne[i]} + b.ne[i] : a.ne[i];
    }
    return has_shape(node, ne) ? nullptr : wrong_shape;
}

Violation diag(const Tensor & node) {
    const Tensor & a = source(node, 0);
    return a.ne[1] == 1 ? expect(node, a.ne[0], a.ne[0], a.ne[2], a.ne[3]) : mismatched_sources;
}

Violation pad(const Tensor & node) {
    std::array<Wide, 4> ne{};
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        const int32_t left = parameter(node, 2 * i), right = parameter(node, 2 * i + 1);
        if (left < 0 || right < 0) {
            return bad_parameter;
        }
        ne[static_cast<size_t>(i)] = Wide{source(node, 0).ne[i]} + left + right;
    }
    const int32_t circular = parameter(node, 8);
    if (circular != 0 && elements(source(node, 0)) == 0) {
        return mismatched_sources;
    }
    return has_shape(node, ne) ? nullptr : wrong_shape;
}

Violation pad_reflect(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const int32_t left = parameter(node, 0), right = parameter(node, 1);
    if (left < 0 || right < 0 || left >= a.ne[0] || right >= a.ne[0]) {
        return bad_parameter;
    }
    return expect(node, Wide{a.ne[0]} + left + right, a.ne[1], a.ne[2], a.ne[3]);
}

Violation upscale(const Tensor & node) {
    const auto mode = static_cast<uint32_t>(parameter(node, 0));
    if ((mode & 0xff) >= GGML_SCALE_MODE_COUNT) {
        return bad_parameter;
    }
    return elements(source(node, 0)) > 0 ? nullptr : mismatched_sources;
}

Violation arange(const Tensor & node) {
    const float start = real(node, 0), stop = real(node, 1), step = real(node, 2);
    const float steps = std::ceil((stop - start) / step);
    if (!(steps > 0 && steps < 1e15F)) {
        return bad_parameter;
    }
    return expect(node, static_cast<int64_t>(steps), 1, 1, 1);
}

Violation timestep_embedding(const Tensor & node) {
    const Tensor & steps = source(node, 0);
    const int32_t dim = parameter(node, 0);
    if (!has_shape(steps, {steps.ne[0], 1, 1, 1})) {
        return mismatched_sources;
    }
    return dim < 1 ? bad_parameter : expect(node, dim, steps.ne[0], 1, 1);
}

Violation get_rows(const Tensor & node) {
    const Tensor &a = source(node, 0), &rows = source(node, 1);
    if (a.ne[2] != rows.ne[1] || a.ne[3] != rows.ne[2] || rows.ne[3] != 1) {
        return mismatched_sources;
    }
    if (node.type != (a.type == GGML_TYPE_I32 ? GGML_TYPE_I32 : GGML_TYPE_F32)) {
        return "its result has the wrong type";
    }
    return expect(node, a.ne[0], rows.ne[0], rows.ne[1], rows.ne[2]);
}

Violation get_rows_back(const Tensor & node) {
    const Tensor &a = source(node, 0), &rows = source(node, 1);
    if (!has_shape(a, {a.ne[0], a.ne[1], 1, 1}) || !has_shape(rows, {rows.ne[0], 1, 1, 1}) || rows.ne[0] > a.ne[1]) {
        return mismatched_sources;
    }
    return expect(node, a.ne[0], node.ne[1], 1, 1);
}

Violation set_rows(const Tensor & node) {
    const Tensor &from = source(node, 0), &rows = source(node, 1), &to = source(node, 2);
    if (from.ne[1] != rows.ne[0] || !divides(rows.ne[1], from.ne[2]) || !divides(rows.ne[2], from.ne[3]) ||
        rows.ne[3] != 1 || !has_shape(to, {from.ne[0], to.ne[1], from.ne[2], from.ne[3]})) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous_rows(&from) || !ggml_is_contiguous_rows(&node)) {
        return bad_layout;
    }
    return same_shape(node, to) ? nullptr : wrong_shape;
}

Violation win_part(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const int32_t across = parameter(node, 0), down = parameter(node, 1), size = parameter(node, 2);
    if (size < 1 || (Wide{a.ne[1]} + size - 1) / size != across || (Wide{a.ne[2]} + size - 1) / size != down) {
        return bad_parameter;
    }
    return a.ne[3] == 1 ? expect(node, a.ne[0], size, size, Wide{across} * down) : mismatched_sources;
}

Violation win_unpart(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const int32_t size = parameter(node, 0);
    if (size < 1) {
        return bad_parameter;
    }
    const Wide windows = (Wide{node.ne[1]} + size - 1) / size * ((Wide{node.ne[2]} + size - 1) / size);
    if (!has_shape(a, {a.ne[0], size, size, windows})) {
        return mismatched_sources;
    }
    return expect(node, a.ne[0], node.ne[1], node.ne[2], 1);
}

Violation get_rel_pos(const Tensor & node) {
    const Tensor & a = source(node, 0);
    if (a.type != GGML_TYPE_F16 || a.ne[1] != 2 * Wide{node.ne[1]} - 1 || a.ne[2] != 1 || a.ne[3] != 1) {
        return mismatched_sources;
    }
    return expect(node, a.ne[0], node.ne[1], node.ne[1], 1);
}

Violation add_rel_pos(const Tensor & node) {
    const Tensor &a = source(node, 0), &width = source(node, 1), &height = source(node, 2);
    if (!same_shape(width, height) || width.ne[3] != a.ne[2] || a.ne[3] != 1 ||
        Wide{width.ne[0]} * width.ne[0] != a.ne[0] || Wide{width.ne[1]} * width.ne[2] != a.ne[1]) {
        return mismatched_sources;
    }
    return same(node);
}

Violation cross_entropy_back(const Tensor & node) {
    const Tensor &gradient = source(node, 0), &a = source(node, 1), &b = source(node, 2);
    if (!has_shape(gradient, {1, 1, 1, 1}) || !same_shape(a, b)) {
        return mismatched_sources;
    }
    return same_shape(node, a) ? nullptr : wrong_shape;
}

Violation cpu_dense(const Tensor & node) { return every_tensor(node, dense) ? nullptr : bad_layout; }

Violation cpu_rows(const Tensor & node) {
    return every_tensor(node, [](const Tensor & tensor) { return ggml_is_contiguous_1(&tensor); }) ? nullptr
                                                                                                 : bad_layout;
}

Violation cpu_contiguous(const Tensor & node) {
    return every_tensor(node, [](const Tensor & tensor) { return ggml_is_contiguous(&tensor); }) ? nullptr
                                                                                               : bad_layout;
}

// The kernel handles a single plane only.
Violation cpu_count_equal(const Tensor & node) {
    const Tensor & a = source(node, 0);
    return a.ne[2] == 1 && a.ne[3] == 1 ? nullptr : mismatched_sources;
}

// The kernel copies quantized rows whole, so rows must match unless the destination is contiguous.
Violation cpu_copy(const Tensor & node) {
    const Tensor & from = source(node, 0);
    if (ggml_blck_size(from.type) == 1 && ggml_blck_size(node.type) == 1) {
        return nullptr;
    }
    const bool whole_rows = ggml_is_contiguous_rows(&from) && ggml_is_contiguous_rows(&node);
    return whole_rows && (from.ne[0] == node.ne[0] || ggml_is_contiguous(&node)) ? nullptr : bad_layout;
}

// The kernel does not broadcast into a quantized source 0.
Violation cpu_add(const Tensor & node) {
    const Tensor & a = source(node, 0);
    return ggml_blck_size(a.type) == 1 || same_shape(a, source(node, 1)) ? nullptr : mismatched_sources;
}

Violation cpu_planes(const Tensor & node) {
    const Tensor & image = source(node, 1);
    const size_t element = ggml_type_size(image.type);
    const bool rows = image.ne[0] <= 1 || image.nb[0] == element;
    return rows && (image.ne[1] <= 1 || Wide{image.nb[1]} >= Wide{image.ne[0]} * static_cast<Wide>(element))
               ? nullptr
               : bad_layout;
}

}  // namespace caravan::server::shapes
