// Matrix products, attention and recurrences.
#include <bit>

#include "server/ops/op_shape_terms.h"
#include "server/ops/overread.h"

namespace caravan::server::shapes {
namespace {

// The recurrences of RWKV and of gated linear attention. `like`: the sources that have the shape of source 0, [S, H, tokens].
// The result has a row for each token, followed by the states of all sequences.
Violation recurrence(const Tensor & node, std::initializer_list<int> like, int state_index) {
    const Tensor &a = source(node, 0), &state = source(node, state_index);
    const int64_t size = a.ne[0], heads = a.ne[1], tokens = a.ne[2], sequences = state.ne[1];
    for (const int i : like) {
        if (!same_shape(a, source(node, i))) {
            return mismatched_sources;
        }
    }
    for (int i = 0; i <= state_index; ++i) {
        if (!ggml_is_contiguous(&source(node, i))) {
            return bad_layout;
        }
    }
    if (a.ne[3] != 1 || heads < 1 || sequences < 1 || tokens < sequences || tokens % sequences != 0 ||
        elements(state) != Wide{size} * size * heads * sequences) {
        return mismatched_sources;
    }
    return expect(node, Wide{size} * heads, tokens + Wide{size} * sequences, 1, 1);
}

bool may_multiply(const Tensor & a, const Tensor & b) {
    return a.ne[0] == b.ne[0] && divides(a.ne[2], b.ne[2]) && divides(a.ne[3], b.ne[3]);
}

}  // namespace

Violation mul_mat(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1);
    if (!may_multiply(a, b)) {
        return mismatched_sources;
    }
    if (ggml_is_transposed(&a)) {
        return bad_layout;
    }
    // With this hint the kernel applies a Hadamard transform to the rows of b instead of multiplying.
    if (parameter(node, 1) == GGML_HINT_SRC0_IS_HADAMARD &&
        (a.ne[0] != a.ne[1] || !std::has_single_bit(static_cast<uint64_t>(a.ne[0])))) {
        return mismatched_sources;
    }
    return expect(node, a.ne[1], b.ne[1], b.ne[2], b.ne[3]);
}

Violation mul_mat_id(const Tensor & node) {
    const Tensor &as = source(node, 0), &b = source(node, 1), &ids = source(node, 2);
    if (as.ne[3] != 1 || b.ne[3] != 1 || ids.ne[2] != 1 || ids.ne[3] != 1 || ids.ne[1] != b.ne[2] ||
        as.ne[0] != b.ne[0] || !divides(b.ne[1], ids.ne[0])) {
        return mismatched_sources;
    }
    return ggml_is_transposed(&as) ? bad_layout : expect(node, as.ne[1], ids.ne[0], b.ne[2], 1);
}

Violation out_prod(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1);
    if (a.ne[1] != b.ne[1] || !divides(a.ne[2], b.ne[2]) || !divides(a.ne[3], b.ne[3])) {
        return mismatched_sources;
    }
    return ggml_is_transposed(&a) ? bad_layout : expect(node, a.ne[0], b.ne[0], b.ne[2], b.ne[3]);
}

Violation soft_max(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const Tensor *mask = node.src[1], *sinks = node.src[2];
    if (!(real(node, 1) <= 0) && mask == nullptr) {
        return "it has a bias but no mask";
    }
    if (mask != nullptr && (mask->ne[0] != a.ne[0] || mask->ne[1] < a.ne[1] || !divides(mask->ne[2], a.ne[2]) ||
                            !divides(mask->ne[3], a.ne[3]))) {
        return "its mask has the wrong shape or layout";
    }
    if (sinks != nullptr && !has_shape(*sinks, {a.ne[2], 1, 1, 1})) {
        return "its sinks have the wrong shape";
    }
    if (!ggml_is_contiguous(&a) || (mask != nullptr && !ggml_is_contiguous(mask))) {
        return bad_layout;
    }
    return same(node);
}

Violation rope(const Tensor & node) {
    const Tensor &a = source(node, 0), &positions = source(node, 1);
    const int32_t dims = parameter(node, 1), mode = parameter(node, 2), offset = parameter(node, 15);
    if (dims < 1 || dims % 2 != 0 || a.ne[0] % 2 != 0 || offset < 0 || Wide{offset} + dims > a.ne[0] ||
        (mode & 1) != 0 || (mode == GGML_ROPE_TYPE_VISION && (dims != a.ne[0] / 2 || offset != 0))) {
        return bad_parameter;
    }
    const bool has_sections = (mode & GGML_ROPE_TYPE_MROPE) != 0;
    if (has_sections) {
        const auto section = [&](int i) { return parameter(node, 11 + i); };
        if (section(0) < 0 || section(1) < 0 || section(2) < 0 || section(3) < 0 ||
            (section(0) == 0 && section(1) == 0 && section(2) == 0)) {
            return bad_parameter;
        }
    }
    if (!has_shape(positions, {Wide{a.ne[2]} * (has_sections ? 4 : 1), 1, 1, 1})) {
        return "the number of positions is wrong";
    }
    const Tensor * frequencies = node.src[2];
    if (frequencies != nullptr &&
        (frequencies->ne[0] < dims / 2 || !has_shape(*frequencies, {frequencies->ne[0], 1, 1, 1}))) {
        return "there are fewer frequencies than dimensions";
    }
    return same(node);
}

// The kernel reads one frequency for each pair of a row, and ignores those beyond the rotated dimensions.
Violation cpu_rope(const Tensor & node) {
    const Tensor * frequencies = node.src[2];
    const bool is_near = frequencies == nullptr ||
                         source(node, 0).ne[0] / 2 - frequencies->ne[0] <= static_cast<int64_t>(overread_bytes / sizeof(float));
    return is_near ? nullptr : mismatched_sources;
}

Violation flash_attn(const Tensor & node) {
    const Tensor &q = source(node, 0), &k = source(node, 1), &v = source(node, 2);
    const Tensor *mask = node.src[3], *sinks = node.src[4];
    if (!may_multiply(k, q) || k.ne[1] != v.ne[1] || !divides(v.ne[2], q.ne[2]) || k.ne[3] != q.ne[3] ||
        v.ne[3] != q.ne[3]) {
        return mismatched_sources;
    }
    if (!(real(node, 1) <= 0) && mask == nullptr) {
        return "it has a bias but no mask";
    }
    if (parameter(node, 4) < 0) {
        return bad_parameter;
    }
    if (mask != nullptr && (mask->ne[0] < k.ne[1] || mask->ne[1] < q.ne[1] || !divides(mask->ne[2], q.ne[2]) ||
                            !divides(mask->ne[3], q.ne[3]) || !ggml_is_contiguous(mask))) {
        return "its mask has the wrong shape or layout";
    }
    if (sinks != nullptr && !has_shape(*sinks, {q.ne[2], 1, 1, 1})) {
        return "its sinks have the wrong shape";
    }
    return expect(node, v.ne[0], q.ne[2], q.ne[1], q.ne[3]);
}

Violation ssm_conv(const Tensor & node) {
    const Tensor &x = source(node, 0), &kernel = source(node, 1);
    if (x.ne[3] != 1 || !has_shape(kernel, {kernel.ne[0], x.ne[1], 1, 1}) || kernel.ne[0] < 1) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous(&kernel)) {
        return bad_layout;
    }
    return expect(node, x.ne[1], Wide{x.ne[0]} - kernel.ne[0] + 1, x.ne[2], 1);
}

Violation ssm_scan(const Tensor & node) {
    const Tensor &s = source(node, 0), &x = source(node, 1), &dt = source(node, 2), &a = source(node, 3),
                 &b = source(node, 4), &c = source(node, 5), &ids = source(node, 6);
    const int32_t snapshots = parameter(node, 0);
    if (snapshots < 1) {
        return bad_parameter;
    }
    if (snapshots > 1 && a.ne[0] != 1) {
        return "snapshots require a scalar decay per head";
    }
    const int64_t state = s.ne[0], size = x.ne[0], heads = x.ne[1], tokens = x.ne[2], sequences = x.ne[3];
    if (s.ne[1] != size || s.ne[2] != heads || !has_shape(dt, {heads, tokens, sequences, 1}) ||
        (a.ne[0] != 1 && a.ne[0] != state) || !has_shape(a, {a.ne[0], heads, 1, 1}) || !same_shape(b, c) ||
        !has_shape(b, {state, b.ne[1], tokens, sequences}) || b.ne[1] < 1 || heads % b.ne[1] != 0 ||
        !has_shape(ids, {sequences, 1, 1, 1})) {
        return mismatched_sources;
    }
    const auto whole_rows = [](const Tensor & tensor) {
        const size_t element = ggml_type_size(tensor.type);
        return tensor.nb[0] == element && tensor.nb[1] == static_cast<size_t>(tensor.ne[0]) * element;
    };
    if (!ggml_is_contiguous(&s) || !ggml_is_contiguous(&dt) || !ggml_is_contiguous(&a) || !whole_rows(x) ||
        !whole_rows(b) || !whole_rows(c)) {
        return bad_layout;
    }
    return expect(node, elements(x) + Wide{state} * size * heads * sequences * snapshots, 1, 1, 1);
}

Violation rwkv6(const Tensor & node) {
    const Tensor & a = source(node, 0);
    return elements(source(node, 3)) == Wide{a.ne[0]} * a.ne[1] ? recurrence(node, {1, 2, 4}, 5) : mismatched_sources;
}

Violation gated_linear_attn(const Tensor & node) { return recurrence(node, {1, 2, 3}, 4); }

Violation rwkv7(const Tensor & node) { return recurrence(node, {1, 2, 3, 4, 5}, 6); }

// The kernel processes rows in vectors of up to 64 numbers and has no tail loop.
Violation cpu_rwkv7(const Tensor & node) { return source(node, 0).ne[0] % 64 == 0 ? nullptr : mismatched_sources; }

Violation gated_delta_net(const Tensor & node) {
    const Tensor &q = source(node, 0), &k = source(node, 1), &v = source(node, 2), &gate = source(node, 3),
                 &beta = source(node, 4), &state = source(node, 5);
    const int32_t snapshots = parameter(node, 0);
    if (snapshots < 1) {
        return bad_parameter;
    }
    const int64_t size = v.ne[0], heads = v.ne[1], tokens = v.ne[2], sequences = v.ne[3];
    if (!same_shape(q, k) || q.ne[0] != size || q.ne[2] != tokens || !divides(q.ne[1], heads) ||
        !divides(q.ne[3], sequences) || (gate.ne[0] != 1 && gate.ne[0] != size) ||
        !has_shape(gate, {gate.ne[0], heads, tokens, sequences}) || !has_shape(beta, {1, heads, tokens, sequences}) ||
        !has_shape(state, {size, size, heads, sequences})) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous_rows(&q) || !ggml_is_contiguous_rows(&k) || !ggml_is_contiguous_rows(&v) ||
        !ggml_is_contiguous(&gate) || !ggml_is_contiguous(&beta) || !ggml_is_contiguous(&state)) {
        return bad_layout;
    }
    return expect(node, Wide{size} * heads, Wide{tokens} * sequences + Wide{size} * sequences * snapshots, 1, 1);
}

Violation solve_tri(const Tensor & node) {
    const Tensor &a = source(node, 0), &b = source(node, 1);
    if (!has_shape(a, {b.ne[1], b.ne[1], b.ne[2], b.ne[3]})) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous(&a) || !ggml_is_contiguous(&b)) {
        return bad_layout;
    }
    return same_shape(node, b) ? nullptr : wrong_shape;
}

Violation lightning_indexer(const Tensor & node) {
    const Tensor &q = source(node, 0), &k = source(node, 1), &weights = source(node, 2), &mask = source(node, 3);
    const int64_t size = q.ne[0], heads = q.ne[1], tokens = q.ne[2], streams = q.ne[3], kept = k.ne[2];
    if (!has_shape(k, {size, 1, kept, streams}) || !has_shape(weights, {heads, tokens, 1, streams}) ||
        !has_shape(mask, {kept, tokens, 1, mask.ne[3]}) || !divides(mask.ne[3], streams)) {
        return mismatched_sources;
    }
    return expect(node, kept, tokens, 1, streams);
}

Violation hc_comb(const Tensor & node) {
    const Tensor &mixes = source(node, 0), &scale = source(node, 1), &base = source(node, 2);
    const int64_t streams = node.ne[0], tokens = mixes.ne[1];
    const Wide mix = (Wide{streams} + 2) * streams;
    if (parameter(node, 1) < 1) {
        return bad_parameter;
    }
    if (!has_shape(mixes, {mix, tokens, 1, 1}) || scale.ne[0] < 3 || !has_shape(scale, {scale.ne[0], 1, 1, 1}) ||
        !has_shape(base, {mix, 1, 1, 1})) {
        return mismatched_sources;
    }
    return expect(node, streams, streams, tokens, 1);
}

Violation hc_pre(const Tensor & node) {
    const Tensor &x = source(node, 0), &weights = source(node, 1);
    const int32_t gated = parameter(node, 1);
    if (gated != 0 && gated != 1) {
        return bad_parameter;
    }
    if (x.ne[3] != 1 || !(gated == 1 ? same_shape(weights, x) : has_shape(weights, {x.ne[1], x.ne[2], 1, 1}))) {
        return mismatched_sources;
    }
    return expect(node, x.ne[0], x.ne[2], 1, 1);
}

Violation hc_post(const Tensor & node) {
    const Tensor &x = source(node, 0), &residual = source(node, 1), &post = source(node, 2);
    const Tensor * comb = node.src[3];
    const int64_t streams = residual.ne[1], tokens = x.ne[1];
    if (!has_shape(x, {x.ne[0], tokens, 1, 1}) || !has_shape(residual, {x.ne[0], streams, tokens, 1}) ||
        !has_shape(post, {streams, tokens, 1, 1}) ||
        (comb != nullptr && !has_shape(*comb, {streams, streams, tokens, 1}))) {
        return mismatched_sources;
    }
    return same_shape(node, residual) ? nullptr : wrong_shape;
}

}  // namespace caravan::server::shapes
