// A valid node of each ggml op, and changes that make it invalid.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/formatted.h"
#include "ggml.h"
#include "server/ops/op_check.h"

namespace caravan::test {

inline constexpr auto F = GGML_TYPE_F32, H = GGML_TYPE_F16, I = GGML_TYPE_I32;

class OpNodes : public testing::Test {
protected:
    OpNodes() : context(ggml_init({.mem_size = 4 << 20, .mem_buffer = nullptr, .no_alloc = true}), ggml_free) {}

    ggml_context * c() { return context.get(); }
    ggml_tensor * t(ggml_type type, int64_t a, int64_t b = 1, int64_t d = 1, int64_t e = 1) {
        return ggml_new_tensor_4d(c(), type, a, b, d, e);
    }
    ggml_tensor * param(int64_t a, int64_t b) {
        ggml_tensor * out = t(F, a, b);
        ggml_set_param(out);
        return out;
    }

    // Nodes made by ggml's constructors, at least one of each op.
    std::vector<ggml_tensor *> valid();

    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context;
};

inline std::vector<ggml_tensor *> OpNodes::valid() {
    std::vector<ggml_tensor *> v;
    int sections[4] = {8, 8, 8, 8};
    const uint32_t align_corners = uint32_t{GGML_SCALE_MODE_BILINEAR} | uint32_t{GGML_SCALE_FLAG_ALIGN_CORNERS};
    const auto add1 = [&](ggml_tensor * a) {  // its constructor is deprecated
        ggml_tensor * out = ggml_add(c(), a, t(F, 1));
        out->op = GGML_OP_ADD1;
        return out;
    };
    const std::vector<std::array<int64_t, 4>> shapes{{8, 5, 3, 2}, {1, 1, 1, 1}, {64, 1, 7, 1}, {2, 9, 1, 4}};
    for (const auto & [a, b, d, e] : shapes) {
        const auto x = [&](ggml_type type = F) { return t(type, a, b, d, e); };
        for (ggml_tensor * node :
             {ggml_dup(c(), x()), ggml_add(c(), x(), x()), ggml_add(c(), x(), t(F, a)), ggml_add_inplace(c(), x(), x()),
              ggml_add_cast(c(), x(H), x(), F), add1(x()), ggml_sub(c(), x(), t(F, 1, b)),
              ggml_mul(c(), x(), t(F, 1, 1, d)), ggml_div(c(), x(), t(F, a, b)), ggml_sqr(c(), x()),
              ggml_sqrt(c(), x()), ggml_log(c(), x()), ggml_sin(c(), x()), ggml_cos_inplace(c(), x()),
              ggml_sum(c(), x()), ggml_sum_rows(c(), x()), ggml_cumsum(c(), x()), ggml_mean(c(), x()),
              ggml_argmax(c(), t(F, a, b)), ggml_count_equal(c(), t(I, a, b), t(I, a, b)),
              ggml_repeat_4d(c(), x(), 2 * a, b, 3 * d, e),
              ggml_repeat_back(c(), t(F, 2 * a, b, d, 3 * e), x()), ggml_silu_back(c(), x(), x()),
              ggml_norm(c(), x(), 1e-5F), ggml_rms_norm(c(), x(), 0), ggml_rms_norm_back(c(), x(), x(), 1e-5F),
              ggml_group_norm(c(), x(), 2, 1e-5F), ggml_l2_norm(c(), x(), 1e-5F), ggml_scale(c(), x(), 2),
              ggml_cpy(c(), x(), x(H)), ggml_cpy(c(), x(), t(F, a * b, d * e)), ggml_cast(c(), x(), H), ggml_cont(c(), x()),
              ggml_cont(c(), ggml_transpose(c(), x())), ggml_cont_1d(c(), x(), a * b * d * e),
              ggml_diag_mask_inf(c(), x(), 1), ggml_diag_mask_zero(c(), x(), 0), ggml_soft_max(c(), x()),
              ggml_soft_max_ext(c(), x(), t(H, a, b), 1, 1), ggml_soft_max_ext_back(c(), x(), x(), 1, 0),
              ggml_clamp(c(), x(), 0, 1), ggml_pad(c(), x(), 1, 2, 3, 4),
              ggml_pad_ext_circular(c(), x(), 1, 0, 0, 1, 0, 0, 1, 1),
              ggml_pad_reflect_1d(c(), t(F, a + 2, b), 1, 2), ggml_roll(c(), t(F, a + 2, b + 2), -1, 2, 0, 0),
              ggml_upscale(c(), x(), 2, GGML_SCALE_MODE_NEAREST),
              ggml_interpolate(c(), x(), 7, 5, d, e, align_corners),
              ggml_argsort(c(), x(), GGML_SORT_ORDER_DESC), ggml_top_k(c(), x(), 1), ggml_leaky_relu(c(), x(), 0.1F, false),
              ggml_tri(c(), t(F, a, a, d), GGML_TRI_TYPE_LOWER), ggml_fill(c(), x(), 3), ggml_diag(c(), t(F, a, 1, d, e)),
              ggml_xielu(c(), x(), 1, 1, 1, 1), ggml_gelu(c(), x()), ggml_trunc_inplace(c(), x()),
              ggml_swiglu(c(), t(F, 2 * a, b)), ggml_geglu_split(c(), x(), x()), ggml_swiglu_clamp(c(), x(), x(), 3),
              ggml_cross_entropy_loss(c(), x(), x()), ggml_cross_entropy_loss_back(c(), t(F, 1), x(), x()),
              ggml_opt_step_adamw(c(), param(a, b), t(F, a, b), t(F, a, b), t(F, a, b), t(F, 7)),
              ggml_opt_step_sgd(c(), param(a, b), t(F, a, b), t(F, 2)),
              ggml_mul_mat(c(), t(H, a, 6, d), t(F, a, 4, d, e)), ggml_out_prod(c(), t(F, 6, a), t(F, 4, a, d)),
              ggml_get_rows(c(), t(H, a, b, d, e), t(I, 3, d, e)), ggml_get_rows(c(), x(I), t(I, 3, d, e)),
              ggml_get_rows_back(c(), t(F, a, 3), t(I, 3), t(F, a, b)),
              ggml_set_rows(c(), x(H), t(F, a, 2, d, e), t(GGML_TYPE_I64, 2, d)),
              ggml_set_rows(c(), x(), t(F, a, 2, d, e), t(I, 2)),
              ggml_acc(c(), x(), t(F, a), a * 4, a * b * 4, a * b * d * 4, 0), ggml_set_1d(c(), x(), t(F, 1), (a - 1) * 4),
              ggml_add_id(c(), t(F, a, b, d), t(F, a, 5), t(I, b, d)),
              ggml_solve_tri(c(), t(F, b, b, d), t(F, a, b, d), true, true, false)}) {
            v.push_back(node);
        }
        for (int dim = 0; dim < 4; ++dim) {
            v.push_back(ggml_concat(c(), x(), x(), dim));
        }
    }
    for (const int mode : {GGML_ROPE_TYPE_NORMAL, GGML_ROPE_TYPE_NEOX}) {
        v.push_back(ggml_rope(c(), t(F, 64, 4, 3, 2), t(I, 3), 32, mode));
    }
    v.push_back(ggml_rope_set_offset(ggml_rope(c(), t(F, 64, 4, 3, 2), t(I, 3), 32, 0), 32));
    v.push_back(ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 64, sections, GGML_ROPE_TYPE_MROPE, 0, 1e4F, 1, 0, 1,
                                32, 1));
    v.push_back(ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 32, sections, GGML_ROPE_TYPE_VISION, 0, 1e4F, 1, 0, 1,
                                32, 1));
    v.push_back(ggml_rope_ext_back(c(), t(F, 64, 4, 3), t(I, 3), t(F, 32), 32, 0, 7, 1e4F, 1, 0, 1, 32, 1));
    v.push_back(ggml_mul_mat_id(c(), t(H, 32, 6, 8), t(F, 32, 1, 3), t(I, 2, 3)));
    v.push_back(ggml_mul_mat(c(), t(GGML_TYPE_Q4_0, 64, 6), t(F, 64, 4)));
    v.push_back(ggml_cpy(c(), t(F, 64, 6), t(GGML_TYPE_Q8_0, 64, 6)));
    v.push_back(ggml_rope_ext_back(c(), t(F, 4096, 4, 3), t(I, 3), t(F, 1024), 2048, 0, 7, 1e4F, 1, 0, 1, 32, 1));
    ggml_tensor * hadamard = ggml_mul_mat(c(), t(F, 64, 64), t(F, 64, 4));
    ggml_mul_mat_set_hint(hadamard, GGML_HINT_SRC0_IS_HADAMARD);
    v.push_back(hadamard);
    ggml_tensor * sunk = ggml_soft_max_ext(c(), t(F, 8, 4, 6), t(F, 8, 4), 1, 0);
    ggml_soft_max_add_sinks(sunk, t(F, 6));
    v.push_back(sunk);
    for (const int stride : {1, 2, 3}) {
        for (const int padding : {0, 1}) {
            v.push_back(ggml_im2col(c(), t(H, 3, 3, 2, 4), t(F, 10, 9, 2, 3), stride, 1, padding, 0, 1, 2, true, H));
            v.push_back(ggml_im2col(c(), t(F, 3, 2, 4), t(F, 10, 2, 3), stride, 0, padding, 0, 1, 0, false, F));
            v.push_back(ggml_im2col_3d(c(), t(F, 3, 3, 3, 2), t(F, 10, 9, 8, 4), 2, stride, 1, 1, padding, 0, 0, 1, 1, 1, F));
            v.push_back(ggml_conv_2d_direct(c(), t(F, 3, 3, 2, 4), t(F, 10, 9, 2, 3), stride, 1, padding, 0, 1, 2));
            v.push_back(ggml_conv_2d_dw_direct(c(), t(F, 3, 3, 1, 4), t(F, 10, 9, 4, 3), stride, 1, padding, 0, 1, 2));
            v.push_back(ggml_conv_2d_dw_direct(c(), t(F, 3, 3, 1, 4), ggml_permute(c(), t(F, 4, 10, 9, 3), 2, 0, 1, 3), stride,
                                               1, padding, 0, 1, 2));
            v.push_back(ggml_conv_3d_direct(c(), t(F, 3, 3, 3, 8), t(F, 10, 9, 8, 4), stride, 1, 1, padding, 0, 0, 1, 1, 1, 2,
                                            2, 4));
            v.push_back(ggml_pool_1d(c(), t(F, 10, 9), GGML_OP_POOL_MAX, 3, stride, padding));
            v.push_back(ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding + 0.5F, padding));
            v.push_back(ggml_pool_2d_back(c(), ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding, 0),
                                          t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding, 0));
            v.push_back(ggml_conv_transpose_1d(c(), t(F, 3, 5, 7), t(F, 9, 7), stride, 0, 1));
            v.push_back(ggml_conv_transpose_2d_p0(c(), t(H, 3, 3, 5, 7), t(F, 9, 8, 7, 2), stride));
            v.push_back(ggml_col2im_1d(c(), t(F, 12, 5), stride, 3, padding));
            int64_t image[4] = {10, 9, 2, 3};
            v.push_back(ggml_im2col_back(c(),
                                         ggml_im2col(c(), t(F, 3, 3, 2, 4), t(F, 10, 9, 2, 3), stride, 1, padding, 0, 1, 1,
                                                     true, F),
                                         t(F, 3, 3, 2, 4), image, stride, 1, padding, 0, 1, 1, true));
        }
    }
    v.push_back(ggml_arange(c(), 0, 10, 3));
    v.push_back(ggml_timestep_embedding(c(), t(F, 8), 5, 100));
    ggml_tensor * attention = ggml_flash_attn_ext(c(), t(F, 64, 3, 4), t(H, 64, 32, 2), t(H, 40, 32, 2), t(H, 32, 3), 1, 1, 0);
    ggml_flash_attn_ext_add_sinks(attention, t(F, 4));
    v.push_back(attention);
    v.push_back(ggml_flash_attn_ext(c(), t(F, 64, 3, 4, 2), t(GGML_TYPE_Q8_0, 64, 32, 4, 2), t(F, 64, 32, 4, 2), nullptr, 1, 0,
                                    0));
    v.push_back(ggml_ssm_conv(c(), t(F, 9, 8, 2), t(F, 4, 8)));
    for (const int64_t a : {1, 16}) {
        v.push_back(ggml_ssm_scan(c(), t(F, 16, 8, 2, 5), t(F, 8, 2, 4, 3), t(F, 2, 4, 3), t(F, a, 2), t(F, 16, 1, 4, 3),
                                  t(F, 16, 1, 4, 3), t(I, 3), a > 1 ? 1 : 3));
        v.push_back(ggml_gated_delta_net(c(), t(F, 16, 2, 4, 3), t(F, 16, 2, 4, 3), t(F, 16, 4, 4, 3), t(F, a, 4, 4, 3),
                                         t(F, 1, 4, 4, 3), t(F, 16, 16, 4, 3), 2));
    }
    v.push_back(ggml_win_part(c(), t(F, 8, 10, 9), 4));
    v.push_back(ggml_win_unpart(c(), t(F, 8, 4, 4, 9), 10, 9, 4));
    v.push_back(ggml_get_rel_pos(c(), t(H, 8, 9), 5, 5));
    v.push_back(ggml_add_rel_pos(c(), t(F, 16, 6, 5), t(F, 4, 3, 2, 5), t(F, 4, 3, 2, 5)));
    const auto head = [&] { return t(F, 16, 2, 6); };
    v.push_back(ggml_rwkv_wkv6(c(), head(), head(), head(), t(F, 16, 2), head(), t(F, 512, 3)));
    v.push_back(ggml_gated_linear_attn(c(), head(), head(), head(), head(), t(F, 512, 2), 1));
    const auto long_head = [&] { return t(F, 64, 2, 6); };
    v.push_back(ggml_rwkv_wkv7(c(), long_head(), long_head(), long_head(), long_head(), long_head(), long_head(),
                               t(F, 8192, 1)));
    const auto odd_head = [&] { return t(F, 5, 2, 6); };
    v.push_back(ggml_rwkv_wkv6(c(), odd_head(), odd_head(), odd_head(), t(F, 5, 2), odd_head(), t(F, 50, 3)));
    v.push_back(ggml_gated_linear_attn(c(), odd_head(), odd_head(), odd_head(), odd_head(), t(F, 50, 2), 1));
    v.push_back(ggml_gated_delta_net(c(), t(F, 5, 2, 4, 3), t(F, 5, 2, 4, 3), t(F, 5, 4, 4, 3), t(F, 1, 4, 4, 3),
                                     t(F, 1, 4, 4, 3), t(F, 5, 5, 4, 3), 1));
    v.push_back(ggml_ssm_scan(c(), t(F, 5, 7, 2, 5), t(F, 7, 2, 4, 3), t(F, 2, 4, 3), t(F, 5, 2), t(F, 5, 1, 4, 3),
                              t(F, 5, 1, 4, 3), t(I, 3), 1));
    v.push_back(ggml_flash_attn_ext(c(), t(F, 5, 3, 4), t(H, 5, 7, 2), t(H, 3, 7, 2), nullptr, 1, 0, 0));
    v.push_back(ggml_mul_mat_id(c(), t(F, 7, 6, 8), t(F, 7, 1, 3), t(I, 2, 3)));
    v.push_back(ggml_lightning_indexer(c(), t(F, 16, 4, 3, 2), t(H, 16, 1, 7, 2), t(F, 4, 3, 1, 2), t(H, 7, 3)));
    v.push_back(ggml_dsv4_hc_comb(c(), t(F, 24, 3), t(F, 3), t(F, 24), 0.1F, 5));
    v.push_back(ggml_dsv4_hc_pre(c(), t(F, 16, 4, 3), t(F, 4, 3)));
    v.push_back(ggml_dsv4_hc_pre_gated(c(), t(F, 16, 4, 3), t(F, 16, 4, 3), 0.5F));
    v.push_back(ggml_dsv4_hc_post(c(), t(F, 16, 3), t(F, 16, 4, 3), t(F, 4, 3), nullptr));
    v.push_back(ggml_dsv4_hc_post(c(), t(F, 16, 3), t(F, 16, 4, 3), t(F, 4, 3), t(F, 4, 4, 3)));
    return v;
}

inline std::string text_of(const ggml_tensor & node) {
    std::string out = formatted("{} [{},{},{},{}] {}", ggml_op_desc(&node), node.ne[0], node.ne[1], node.ne[2], node.ne[3],
                                ggml_type_name(node.type));
    for (const ggml_tensor * src : node.src) {
        if (src != nullptr) {
            out += formatted(" <- {}[{},{},{},{}]", ggml_type_name(src->type), src->ne[0], src->ne[1], src->ne[2], src->ne[3]);
        }
    }
    return out;
}

inline void make_contiguous(ggml_tensor & tensor) {
    tensor.nb[0] = ggml_type_size(tensor.type);
    tensor.nb[1] = ggml_row_size(tensor.type, tensor.ne[0]);
    tensor.nb[2] = tensor.nb[1] * static_cast<size_t>(tensor.ne[1]);
    tensor.nb[3] = tensor.nb[2] * static_cast<size_t>(tensor.ne[2]);
}

// Whether check_op accepts a copy of `node` after `spoil` has changed the copy and copies of its sources.
inline bool accepts(const ggml_tensor & node, const std::function<void(ggml_tensor & node, ggml_tensor * sources)> & spoil) {
    ggml_tensor copy = node;
    std::array<ggml_tensor, GGML_MAX_SRC> sources;
    for (size_t i = 0; i < sources.size() && node.src[i] != nullptr; ++i) {
        sources[i] = *node.src[i];
        copy.src[i] = node.src[i] == &node ? &copy : &sources[i];
    }
    spoil(copy, sources.data());
    return server::check_op(copy, true).has_value();
}

// Exchanges the strides of rows and columns.
inline void lay_across(ggml_tensor & tensor) {
    tensor.nb[1] = ggml_type_size(tensor.type);
    tensor.nb[0] = tensor.nb[1] * static_cast<size_t>(tensor.ne[1]);
}

// Changes a dimension by `change` elements or blocks. False if it becomes empty.
inline bool resize(ggml_tensor & tensor, int dim, int change) {
    tensor.ne[dim] += change * (dim == 0 ? ggml_blck_size(tensor.type) : 1);
    make_contiguous(tensor);
    return tensor.ne[dim] > 0;
}

}  // namespace caravan::test
