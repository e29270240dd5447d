#include "base/formatted.h"
#include "server/op_check.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <string>

#include "base/pages.h"
#include "support/cpu_device.h"
#include "server/graph_builder.h"
#include "server/op_table.h"
#include "support/wire_tensor.h"

namespace caravan::server {
namespace {

constexpr auto F = GGML_TYPE_F32, H = GGML_TYPE_F16, I = GGML_TYPE_I32;

class OpCheck : public testing::Test {
protected:
    OpCheck() : context(ggml_init({.mem_size = 4 << 20, .mem_buffer = nullptr, .no_alloc = true}), ggml_free) {}

    ggml_context * c() { return context.get(); }
    ggml_tensor * t(ggml_type type, int64_t a, int64_t b = 1, int64_t d = 1, int64_t e = 1) {
        return ggml_new_tensor_4d(c(), type, a, b, d, e);
    }
    ggml_tensor * param(int64_t a, int64_t b) {
        ggml_tensor * out = t(F, a, b);
        ggml_set_param(out);
        return out;
    }

    // Nodes as ggml makes them, at least one of each op.
    std::vector<ggml_tensor *> valid();

    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context;
};

std::vector<ggml_tensor *> OpCheck::valid() {
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
              ggml_argmax(c(), t(F, a, b)), ggml_count_equal(c(), t(I, a, b), t(I, a, b)), ggml_repeat_4d(c(), x(), 2 * a, b, 3 * d, e),
              ggml_repeat_back(c(), t(F, 2 * a, b, d, 3 * e), x()), ggml_silu_back(c(), x(), x()),
              ggml_norm(c(), x(), 1e-5F), ggml_rms_norm(c(), x(), 0), ggml_rms_norm_back(c(), x(), x(), 1e-5F),
              ggml_group_norm(c(), x(), 2, 1e-5F), ggml_l2_norm(c(), x(), 1e-5F), ggml_scale(c(), x(), 2),
              ggml_cpy(c(), x(), x(H)), ggml_cpy(c(), x(), t(F, a * b, d * e)), ggml_cast(c(), x(), H), ggml_cont(c(), x()),
              ggml_cont(c(), ggml_transpose(c(), x())), ggml_cont_1d(c(), x(), a * b * d * e),
              ggml_diag_mask_inf(c(), x(), 1), ggml_diag_mask_zero(c(), x(), 0), ggml_soft_max(c(), x()),
              ggml_soft_max_ext(c(), x(), t(H, a, b), 1, 1), ggml_soft_max_ext_back(c(), x(), x(), 1, 0),
              ggml_clamp(c(), x(), 0, 1), ggml_pad(c(), x(), 1, 2, 3, 4), ggml_pad_ext_circular(c(), x(), 1, 0, 0, 1, 0, 0, 1, 1),
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
              ggml_set_rows(c(), x(H), t(F, a, 2, d, e), t(GGML_TYPE_I64, 2, d)), ggml_set_rows(c(), x(), t(F, a, 2, d, e), t(I, 2)),
              ggml_acc(c(), x(), t(F, a), a * 4, a * b * 4, a * b * d * 4, 0), ggml_set_1d(c(), x(), t(F, 1), (a - 1) * 4),
              ggml_add_id(c(), t(F, a, b, d), t(F, a, 5), t(I, b, d)), ggml_solve_tri(c(), t(F, b, b, d), t(F, a, b, d), true, true, false)}) {
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
    v.push_back(ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 64, sections, GGML_ROPE_TYPE_MROPE, 0, 1e4F, 1, 0, 1, 32, 1));
    v.push_back(ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 32, sections, GGML_ROPE_TYPE_VISION, 0, 1e4F, 1, 0, 1, 32, 1));
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
            v.push_back(ggml_conv_2d_dw_direct(c(), t(F, 3, 3, 1, 4), ggml_permute(c(), t(F, 4, 10, 9, 3), 2, 0, 1, 3), stride, 1, padding, 0, 1, 2));
            v.push_back(ggml_conv_3d_direct(c(), t(F, 3, 3, 3, 8), t(F, 10, 9, 8, 4), stride, 1, 1, padding, 0, 0, 1, 1, 1, 2, 2, 4));
            v.push_back(ggml_pool_1d(c(), t(F, 10, 9), GGML_OP_POOL_MAX, 3, stride, padding));
            v.push_back(ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding + 0.5F, padding));
            v.push_back(ggml_pool_2d_back(c(), ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding, 0),
                                          t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 2, stride, 1, padding, 0));
            v.push_back(ggml_conv_transpose_1d(c(), t(F, 3, 5, 7), t(F, 9, 7), stride, 0, 1));
            v.push_back(ggml_conv_transpose_2d_p0(c(), t(H, 3, 3, 5, 7), t(F, 9, 8, 7, 2), stride));
            v.push_back(ggml_col2im_1d(c(), t(F, 12, 5), stride, 3, padding));
            int64_t image[4] = {10, 9, 2, 3};
            v.push_back(ggml_im2col_back(c(), ggml_im2col(c(), t(F, 3, 3, 2, 4), t(F, 10, 9, 2, 3), stride, 1, padding, 0, 1, 1, true, F),
                                         t(F, 3, 3, 2, 4), image, stride, 1, padding, 0, 1, 1, true));
        }
    }
    v.push_back(ggml_arange(c(), 0, 10, 3));
    v.push_back(ggml_timestep_embedding(c(), t(F, 8), 5, 100));
    ggml_tensor * attention = ggml_flash_attn_ext(c(), t(F, 64, 3, 4), t(H, 64, 32, 2), t(H, 40, 32, 2), t(H, 32, 3), 1, 1, 0);
    ggml_flash_attn_ext_add_sinks(attention, t(F, 4));
    v.push_back(attention);
    v.push_back(ggml_flash_attn_ext(c(), t(F, 64, 3, 4, 2), t(GGML_TYPE_Q8_0, 64, 32, 4, 2), t(F, 64, 32, 4, 2), nullptr, 1, 0, 0));
    v.push_back(ggml_ssm_conv(c(), t(F, 9, 8, 2), t(F, 4, 8)));
    for (const int64_t a : {1, 16}) {
        v.push_back(ggml_ssm_scan(c(), t(F, 16, 8, 2, 5), t(F, 8, 2, 4, 3), t(F, 2, 4, 3), t(F, a, 2), t(F, 16, 1, 4, 3), t(F, 16, 1, 4, 3), t(I, 3), a > 1 ? 1 : 3));
        v.push_back(ggml_gated_delta_net(c(), t(F, 16, 2, 4, 3), t(F, 16, 2, 4, 3), t(F, 16, 4, 4, 3), t(F, a, 4, 4, 3), t(F, 1, 4, 4, 3), t(F, 16, 16, 4, 3), 2));
    }
    v.push_back(ggml_win_part(c(), t(F, 8, 10, 9), 4));
    v.push_back(ggml_win_unpart(c(), t(F, 8, 4, 4, 9), 10, 9, 4));
    v.push_back(ggml_get_rel_pos(c(), t(H, 8, 9), 5, 5));
    v.push_back(ggml_add_rel_pos(c(), t(F, 16, 6, 5), t(F, 4, 3, 2, 5), t(F, 4, 3, 2, 5)));
    const auto head = [&] { return t(F, 16, 2, 6); };
    v.push_back(ggml_rwkv_wkv6(c(), head(), head(), head(), t(F, 16, 2), head(), t(F, 512, 3)));
    v.push_back(ggml_gated_linear_attn(c(), head(), head(), head(), head(), t(F, 512, 2), 1));
    const auto long_head = [&] { return t(F, 64, 2, 6); };
    v.push_back(ggml_rwkv_wkv7(c(), long_head(), long_head(), long_head(), long_head(), long_head(), long_head(), t(F, 8192, 1)));
    const auto odd_head = [&] { return t(F, 5, 2, 6); };
    v.push_back(ggml_rwkv_wkv6(c(), odd_head(), odd_head(), odd_head(), t(F, 5, 2), odd_head(), t(F, 50, 3)));
    v.push_back(ggml_gated_linear_attn(c(), odd_head(), odd_head(), odd_head(), odd_head(), t(F, 50, 2), 1));
    v.push_back(ggml_gated_delta_net(c(), t(F, 5, 2, 4, 3), t(F, 5, 2, 4, 3), t(F, 5, 4, 4, 3), t(F, 1, 4, 4, 3), t(F, 1, 4, 4, 3), t(F, 5, 5, 4, 3), 1));
    v.push_back(ggml_ssm_scan(c(), t(F, 5, 7, 2, 5), t(F, 7, 2, 4, 3), t(F, 2, 4, 3), t(F, 5, 2), t(F, 5, 1, 4, 3), t(F, 5, 1, 4, 3), t(I, 3), 1));
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

std::string text_of(const ggml_tensor & node) {
    std::string out = formatted("{} [{},{},{},{}] {}", ggml_op_desc(&node), node.ne[0], node.ne[1], node.ne[2], node.ne[3],
                                ggml_type_name(node.type));
    for (const ggml_tensor * src : node.src) {
        if (src != nullptr) {
            out += formatted(" <- {}[{},{},{},{}]", ggml_type_name(src->type), src->ne[0], src->ne[1], src->ne[2], src->ne[3]);
        }
    }
    return out;
}

void make_contiguous(ggml_tensor & tensor) {
    tensor.nb[0] = ggml_type_size(tensor.type);
    tensor.nb[1] = ggml_row_size(tensor.type, tensor.ne[0]);
    tensor.nb[2] = tensor.nb[1] * static_cast<size_t>(tensor.ne[1]);
    tensor.nb[3] = tensor.nb[2] * static_cast<size_t>(tensor.ne[2]);
}

TEST_F(OpCheck, TheTableNamesTheOpsAsGgmlDoes) { EXPECT_TRUE(check_op_table()); }

TEST_F(OpCheck, WhatGgmlMakesIsAccepted) {
    std::set<uint32_t> seen;
    for (const ggml_tensor * node : valid()) {
        seen.insert(node->op);
        for (const bool for_cpu : {false, true}) {
            const auto checked = check_op(*node, for_cpu);
            EXPECT_TRUE(checked) << text_of(*node) << ": " << checked.error().text;
        }
    }
    for (uint32_t op = 0; op < GGML_OP_COUNT; ++op) {
        const OpRow * row = row_of(op);
        EXPECT_TRUE(row == nullptr || row->relation == nullptr || seen.contains(op)) << row->name << " is not tried";
    }
}

TEST_F(OpCheck, AMissingSourceIsRefused) {
    for (const ggml_tensor * node : valid()) {
        for (int s = 0; s < row_of(node->op)->required; ++s) {
            ggml_tensor broken = *node;
            broken.src[s] = nullptr;
            EXPECT_FALSE(check_op(broken, false)) << text_of(*node) << " without source " << s;
        }
    }
}

// Dimensions of a result that sources and parameters leave open.
bool is_open(const ggml_tensor & node, int dim) {
    switch (node.op) {
        case GGML_OP_UPSCALE: return true;
        case GGML_OP_REPEAT:
        case GGML_OP_REPEAT_BACK: return true;
        case GGML_OP_GET_ROWS_BACK: return dim == 1;
        case GGML_OP_TOP_K:
        case GGML_OP_POOL_2D:
        case GGML_OP_IM2COL_BACK: return dim == 0 || dim == 1;
        case GGML_OP_WIN_UNPART: return dim == 1 || dim == 2;
        default: return false;
    }
}

TEST_F(OpCheck, AResultOfAnotherShapeIsRefused) {
    for (const ggml_tensor * node : valid()) {
        for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
            if (is_open(*node, dim)) {
                continue;
            }
            for (const int64_t ne : {node->ne[dim] + ggml_blck_size(node->type), node->ne[dim] * 1000, int64_t{1} << 40}) {
                ggml_tensor broken = *node;
                broken.ne[dim] = ne;
                make_contiguous(broken);
                EXPECT_FALSE(check_op(broken, false)) << text_of(*node) << " with " << ne << " in dimension " << dim;
            }
        }
    }
}

TEST_F(OpCheck, AResultOfAnotherTypeIsRefused) {
    for (const ggml_tensor * node : valid()) {
        ggml_tensor broken = *node;
        broken.type = node->type == GGML_TYPE_I8 ? F : GGML_TYPE_I8;
        make_contiguous(broken);
        EXPECT_TRUE(node->op == GGML_OP_ADD || node->src[1] == node || !check_op(broken, false)) << text_of(*node);
    }
}

// Sources that are smaller than the op needs, each in each dimension. Not: where a smaller one is repeated or means
// another, likewise valid, op.
TEST_F(OpCheck, ASmallerSourceIsRefused) {
    const std::set<ggml_op> any_size{GGML_OP_SUM, GGML_OP_UPSCALE, GGML_OP_ACC, GGML_OP_SET, GGML_OP_REPEAT_BACK};
    int tried = 0;
    for (const ggml_tensor * node : valid()) {
        for (int s = 0; s < GGML_MAX_SRC && node->src[s] != nullptr && node->src[s] != node; ++s) {
            for (int dim = 1; dim < GGML_MAX_DIMS; ++dim) {
                const int64_t ne = node->src[s]->ne[dim];
                if (ne < 2 || any_size.contains(node->op)) {
                    continue;
                }
                ggml_tensor source = *node->src[s];
                source.ne[dim] = ne - 1;
                make_contiguous(source);
                ggml_tensor broken = *node;
                broken.src[s] = &source;
                const bool refused = !check_op(broken, true);
                // Row counts of tables, and what divides evenly, are the exceptions.
                const auto indices = indices_of(broken);
                const bool table = indices && indices->tensor != &source;
                const bool repeated = ne - 1 == 1;
                const bool rounded = node->op == GGML_OP_IM2COL || node->op == GGML_OP_IM2COL_3D ||
                                     node->op == GGML_OP_POOL_2D || node->op == GGML_OP_WIN_PART ||
                                     node->op == GGML_OP_IM2COL_BACK || node->op == GGML_OP_ROPE;
                EXPECT_TRUE(refused || table || repeated || rounded)
                    << text_of(*node) << ", source " << s << " with " << ne - 1 << " in dimension " << dim;
                ++tried;
            }
        }
    }
    EXPECT_GT(tried, 500);
}

// Nothing may be divided by it, added to it, or believed to be positive.
TEST_F(OpCheck, AnyParameterMayBeAnything) {
    for (const ggml_tensor * node : valid()) {
        for (int i = 0; i < 16; ++i) {
            for (const int32_t value : {0, 1, -1, 7, 0x7f800000, 0x7fc00000, INT32_MAX, INT32_MIN}) {
                ggml_tensor broken = *node;
                broken.op_params[i] = value;
                (void) check_op(broken, true);  // no trap, under UBSan no overflow
            }
        }
    }
}

struct BadParameter {
    ggml_op op;
    int index;
    std::vector<int32_t> values;
};

TEST_F(OpCheck, AParameterOutOfRangeIsRefused) {
    const std::vector<int32_t> not_positive{0, -1, INT32_MIN}, negative{-1, INT32_MIN};
    const std::vector<BadParameter> bad{
        {GGML_OP_ACC, 3, {-4, INT32_MIN, INT32_MAX, 1 << 20}},
        {GGML_OP_SET, 3, {-4, INT32_MIN, INT32_MAX, 1 << 20}},
        {GGML_OP_CONCAT, 0, {-1, 4, INT32_MAX}},
        {GGML_OP_NORM, 0, {std::bit_cast<int32_t>(-1.0F), 0x7fc00000}},
        {GGML_OP_GROUP_NORM, 0, not_positive},
        {GGML_OP_DIAG_MASK_INF, 0, negative},
        {GGML_OP_ROPE, 1, {0, -2, 33, 66, INT32_MAX}},
        {GGML_OP_ROPE, 2, {1, 3}},
        {GGML_OP_ROPE, 15, {-2, 62, INT32_MAX}},
        {GGML_OP_CONV_TRANSPOSE_1D, 0, not_positive},
        {GGML_OP_IM2COL, 0, not_positive},
        {GGML_OP_IM2COL, 2, {-1, 1000, INT32_MAX}},
        {GGML_OP_IM2COL, 4, {0, -1, INT32_MAX}},
        {GGML_OP_IM2COL_3D, 9, not_positive},
        {GGML_OP_COL2IM_1D, 1, {0, -3, 5, 100}},
        {GGML_OP_CONV_2D, 1, not_positive},
        {GGML_OP_CONV_2D_DW, 0, not_positive},
        {GGML_OP_CONV_3D, 9, {0, -2, INT32_MAX}},
        {GGML_OP_CONV_TRANSPOSE_2D, 0, not_positive},
        {GGML_OP_POOL_1D, 0, {-1, 2}},
        {GGML_OP_POOL_1D, 1, not_positive},
        {GGML_OP_POOL_2D, 3, not_positive},
        {GGML_OP_POOL_2D_BACK, 4, not_positive},
        {GGML_OP_UPSCALE, 0, {3, 255, -1}},
        {GGML_OP_PAD, 0, {-1, 100, INT32_MIN}},
        {GGML_OP_PAD_REFLECT_1D, 0, {-1, 1000, INT32_MAX}},
        {GGML_OP_ROLL, 0, {1000, -1000, INT32_MIN}},
        {GGML_OP_ARANGE, 2, {0, 0x7fc00000, std::bit_cast<int32_t>(-1.0F), std::bit_cast<int32_t>(1e-9F)}},
        {GGML_OP_TIMESTEP_EMBEDDING, 0, {0, -1, 6, INT32_MAX}},
        {GGML_OP_ARGSORT, 0, {-1, 2}},
        {GGML_OP_TRI, 0, {-1, 4}},
        {GGML_OP_SSM_SCAN, 0, {0, -1, 2, INT32_MAX}},
        {GGML_OP_GATED_DELTA_NET, 0, {0, -1, 3, INT32_MAX}},
        {GGML_OP_WIN_PART, 2, {0, -1, 1, INT32_MAX}},
        {GGML_OP_WIN_UNPART, 0, {0, -1, 5, INT32_MAX}},
        {GGML_OP_DSV4_HC_COMB, 1, not_positive},
        {GGML_OP_DSV4_HC_PRE, 1, {2, -1}},
        {GGML_OP_FLASH_ATTN_EXT, 4, negative},
        {GGML_OP_UNARY, 0, {-1, GGML_UNARY_OP_COUNT, INT32_MAX}},
        {GGML_OP_GLU, 0, {-1, GGML_GLU_OP_COUNT, INT32_MAX}},
    };
    const auto nodes = valid();
    for (const auto & [op, index, values] : bad) {
        bool tried = false;
        for (const ggml_tensor * node : nodes) {
            for (const int32_t value : node->op == op ? values : std::vector<int32_t>()) {
                tried = true;
                ggml_tensor broken = *node;
                broken.op_params[index] = value;
                EXPECT_FALSE(check_op(broken, true)) << text_of(*node) << ", parameter " << index << ": " << value;
            }
        }
        EXPECT_TRUE(tried);
    }
}

// An ACC whose strides, with its offset within bounds, lead out of its result.
TEST_F(OpCheck, AWindowMustLieInTheResult) {
    ggml_tensor * node = ggml_acc(c(), t(F, 8, 8), t(F, 4, 4), 32, 256, 256, 16);
    EXPECT_TRUE(check_op(*node, true));
    for (const int32_t stride : {-32, 64 + 32, INT32_MAX, INT32_MIN}) {
        ggml_tensor broken = *node;
        broken.op_params[0] = stride;
        EXPECT_FALSE(check_op(broken, true)) << stride;
    }
}

// A kernel that counts elements must not be led out of a tensor that spans fewer bytes than they have.
TEST_F(OpCheck, StridesThatHideHowMuchIsRead) {
    for (const ggml_tensor * node :
         {ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 3, 1, 1, 0, 0), ggml_win_part(c(), t(F, 8, 10, 9), 4),
          ggml_conv_2d_direct(c(), t(F, 3, 3, 2, 4), t(F, 10, 9, 2, 3), 1, 1, 0, 0, 1, 1),
          ggml_rwkv_wkv7(c(), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 8192, 1))}) {
        ggml_tensor source = *node->src[0];
        source.nb[1] = source.nb[2] = source.nb[3] = 0;
        ggml_tensor broken = *node;
        broken.src[0] = &source;
        EXPECT_FALSE(check_op(broken, true)) << text_of(*node);
    }
}

// What check_op thinks of `node` after `spoil` has had copies of it and of its sources.
bool accepts(const ggml_tensor & node, const std::function<void(ggml_tensor & node, ggml_tensor * sources)> & spoil) {
    ggml_tensor copy = node;
    std::array<ggml_tensor, GGML_MAX_SRC> sources;
    for (size_t i = 0; i < sources.size() && node.src[i] != nullptr; ++i) {
        sources[i] = *node.src[i];
        copy.src[i] = node.src[i] == &node ? &copy : &sources[i];
    }
    spoil(copy, sources.data());
    return check_op(copy, true).has_value();
}

// Its columns where its rows were.
void lay_across(ggml_tensor & tensor) {
    tensor.nb[1] = ggml_type_size(tensor.type);
    tensor.nb[0] = tensor.nb[1] * static_cast<size_t>(tensor.ne[1]);
}

// By so many elements or blocks. False if none are left.
bool resize(ggml_tensor & tensor, int dim, int change) {
    tensor.ne[dim] += change * (dim == 0 ? ggml_blck_size(tensor.type) : 1);
    make_contiguous(tensor);
    return tensor.ne[dim] > 0;
}

// "op source" of all that are accepted, in one of the valid nodes at least, with a source changed.
std::set<std::string> accepting(const std::vector<ggml_tensor *> & nodes, const std::function<bool(ggml_tensor &)> & change) {
    std::set<std::string> out;
    for (const ggml_tensor * node : nodes) {
        for (int s = 0; s < GGML_MAX_SRC && node->src[s] != nullptr; ++s) {
            bool is_changed = false;
            if (node->src[s] != node &&
                accepts(*node, [&](ggml_tensor &, ggml_tensor * sources) { is_changed = change(sources[s]); }) &&
                is_changed) {
                out.insert(formatted("{} {}", ggml_op_name(node->op), s));
            }
        }
    }
    return out;
}

TEST_F(OpCheck, OnlyTheseTakeColumnsForRows) {
    const auto across = accepting(valid(), [](ggml_tensor & source) {
        lay_across(source);
        return source.ne[0] > 1 && source.ne[1] > 1 && ggml_blck_size(source.type) == 1;
    });
    EXPECT_EQ(across, (std::set<std::string>{
        "ADD 0", "ADD 1", "ADD1 0", "ADD_ID 0", "ADD_ID 1", "ADD_ID 2", "ARGMAX 0", "ARGSORT 0", "CLAMP 0", "CONCAT 0",
        "CONCAT 1", "CONT 0", "CONV_2D 0", "CONV_2D 1", "CONV_2D_DW 0", "CONV_2D_DW 1", "CONV_3D 0", "CONV_3D 1",
        "CONV_TRANSPOSE_1D 0", "CONV_TRANSPOSE_1D 1", "CONV_TRANSPOSE_2D 0", "CONV_TRANSPOSE_2D 1", "COS 0",
        "COUNT_EQUAL 0", "COUNT_EQUAL 1", "CPY 0", "CPY 1", "CROSS_ENTROPY_LOSS 0", "CROSS_ENTROPY_LOSS 1",
        "CROSS_ENTROPY_LOSS_BACK 1", "CROSS_ENTROPY_LOSS_BACK 2", "CUMSUM 0", "DIAG_MASK_INF 0", "DIAG_MASK_ZERO 0",
        "DIV 0", "DIV 1", "DSV4_HC_COMB 0", "DSV4_HC_POST 0", "DSV4_HC_POST 1", "DSV4_HC_POST 2", "DSV4_HC_POST 3",
        "DSV4_HC_PRE 0", "DSV4_HC_PRE 1", "DUP 0", "FLASH_ATTN_EXT 0", "FLASH_ATTN_EXT 1", "FLASH_ATTN_EXT 2",
        "GET_REL_POS 0", "GET_ROWS 0", "GET_ROWS 1", "GET_ROWS_BACK 0", "GROUP_NORM 0", "IM2COL 0", "IM2COL_3D 0",
        "IM2COL_3D 1", "IM2COL_BACK 0", "IM2COL_BACK 1", "L2_NORM 0", "LIGHTNING_INDEXER 0", "LIGHTNING_INDEXER 2",
        "LIGHTNING_INDEXER 3", "LOG 0", "MEAN 0", "MUL 0", "MUL_MAT 1", "MUL_MAT_ID 2", "NORM 0", "OUT_PROD 1",
        "PAD 0", "PAD_REFLECT_1D 0", "REPEAT 0", "REPEAT_BACK 0", "RMS_NORM 0", "RMS_NORM_BACK 0", "RMS_NORM_BACK 1",
        "ROLL 0", "ROPE 0", "ROPE_BACK 0", "SCALE 0", "SET_ROWS 1", "SET_ROWS 2", "SIN 0", "SOFT_MAX_BACK 0",
        "SOFT_MAX_BACK 1", "SQR 0", "SQRT 0", "SSM_CONV 0", "SUB 0", "SUM 0", "SUM_ROWS 0", "TOP_K 0", "UNARY 0",
        "UPSCALE 0", "WIN_PART 0", "WIN_UNPART 0"}));
}

TEST_F(OpCheck, OnlyTheseTakeTheSameRowAgainAndAgain) {
    const auto hidden = accepting(valid(), [](ggml_tensor & source) {
        source.nb[1] = source.nb[2] = source.nb[3] = 0;
        return source.ne[1] * source.ne[2] * source.ne[3] > 1;
    });
    EXPECT_EQ(hidden, (std::set<std::string>{
        "ADD 0", "ADD 1", "ADD1 0", "ADD_ID 0", "ADD_ID 1", "ADD_ID 2", "ARGMAX 0", "ARGSORT 0", "CLAMP 0", "CONCAT 0",
        "CONCAT 1", "CONT 0", "CONV_TRANSPOSE_1D 0", "CONV_TRANSPOSE_1D 1", "COS 0", "COUNT_EQUAL 0", "COUNT_EQUAL 1",
        "CPY 0", "CPY 1", "CROSS_ENTROPY_LOSS 0", "CROSS_ENTROPY_LOSS 1", "CROSS_ENTROPY_LOSS_BACK 1",
        "CROSS_ENTROPY_LOSS_BACK 2", "CUMSUM 0", "DIAG 0", "DIAG_MASK_INF 0", "DIAG_MASK_ZERO 0", "DIV 0", "DIV 1",
        "DSV4_HC_COMB 0", "DSV4_HC_POST 0", "DSV4_HC_POST 1", "DSV4_HC_POST 2", "DSV4_HC_POST 3", "DSV4_HC_PRE 0",
        "DSV4_HC_PRE 1", "DUP 0", "FLASH_ATTN_EXT 0", "FLASH_ATTN_EXT 1", "FLASH_ATTN_EXT 2", "GATED_DELTA_NET 0",
        "GATED_DELTA_NET 1", "GATED_DELTA_NET 2", "GET_ROWS 0", "GET_ROWS 1", "GET_ROWS_BACK 0", "GLU 0", "GLU 1",
        "GROUP_NORM 0", "IM2COL 0", "IM2COL_3D 0", "IM2COL_3D 1", "L2_NORM 0", "LEAKY_RELU 0", "LIGHTNING_INDEXER 0",
        "LIGHTNING_INDEXER 1", "LIGHTNING_INDEXER 2", "LIGHTNING_INDEXER 3", "LOG 0", "MEAN 0", "MUL 0", "MUL 1",
        "MUL_MAT 1", "MUL_MAT_ID 1", "MUL_MAT_ID 2", "NORM 0", "OUT_PROD 1", "PAD 0", "PAD_REFLECT_1D 0", "REPEAT 0",
        "REPEAT_BACK 0", "RMS_NORM 0", "RMS_NORM_BACK 0", "RMS_NORM_BACK 1", "ROLL 0", "ROPE 0", "ROPE_BACK 0",
        "SCALE 0", "SET_ROWS 0", "SET_ROWS 1", "SET_ROWS 2", "SILU_BACK 0", "SILU_BACK 1", "SIN 0", "SOFT_MAX_BACK 0",
        "SOFT_MAX_BACK 1", "SQR 0", "SQRT 0", "SSM_CONV 0", "SUB 0", "SUB 1", "SUM 0", "SUM_ROWS 0", "TOP_K 0",
        "UNARY 0", "UPSCALE 0"}));
}

TEST_F(OpCheck, OnlyTheseTakeSourcesOfOtherSizes) {
    std::set<std::string> resized;
    for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
        for (const int change : {-1, 1}) {
            for (const std::string & one : accepting(valid(), [&](ggml_tensor & source) { return resize(source, dim, change); })) {
                resized.insert(formatted("{} {}{}", one, change < 0 ? '-' : '+', dim));
            }
        }
    }
    EXPECT_EQ(resized, (std::set<std::string>{
        "ACC 1 +0", "ACC 1 +1", "ACC 1 +2", "ACC 1 +3", "ACC 1 -0", "ADD 1 +3", "ADD 1 -0", "ADD 1 -3", "ADD_ID 1 +1",
        "ADD_ID 1 -1", "ARGMAX 0 +0", "ARGMAX 0 -0", "CONV_2D 0 +0", "CONV_2D 0 -0", "CONV_2D 1 +0", "CONV_2D 1 -0",
        "CONV_2D_DW 0 +0", "CONV_2D_DW 0 -0", "CONV_2D_DW 1 +0", "CONV_2D_DW 1 -0", "CONV_3D 0 +0", "CONV_3D 0 -0",
        "CONV_3D 1 +0", "CONV_3D 1 -0", "DIV 1 +3", "DIV 1 -0", "DSV4_HC_COMB 1 +0", "FLASH_ATTN_EXT 1 -2",
        "FLASH_ATTN_EXT 2 -2", "FLASH_ATTN_EXT 3 +0", "FLASH_ATTN_EXT 3 +1", "FLASH_ATTN_EXT 3 +2", "GET_ROWS 0 +1",
        "GET_ROWS 0 -1", "GET_ROWS_BACK 0 +1", "GET_ROWS_BACK 1 -0", "GLU 0 +0", "IM2COL 0 +2", "IM2COL 0 +3",
        "IM2COL 0 -2", "IM2COL 0 -3", "IM2COL 1 +0", "IM2COL 1 -0", "IM2COL_3D 0 +3", "IM2COL_3D 0 -3",
        "IM2COL_3D 1 +0", "IM2COL_3D 1 +3", "IM2COL_3D 1 -0", "IM2COL_BACK 1 +3", "IM2COL_BACK 1 -3",
        "LIGHTNING_INDEXER 3 +3", "MEAN 0 +0", "MEAN 0 -0", "MUL 1 +0", "MUL 1 +3", "MUL_MAT 0 +3", "MUL_MAT_ID 0 +2",
        "MUL_MAT_ID 0 -2", "MUL_MAT_ID 1 +1", "POOL_1D 0 +0", "POOL_1D 0 -0", "POOL_2D 0 +0", "POOL_2D 0 -0",
        "POOL_2D 0 -1", "POOL_2D_BACK 0 +0", "POOL_2D_BACK 0 +1", "REPEAT 0 +0", "REPEAT 0 -0", "REPEAT 0 -3",
        "REPEAT_BACK 0 +0", "REPEAT_BACK 0 +1", "REPEAT_BACK 0 +2", "REPEAT_BACK 0 +3", "REPEAT_BACK 0 -0",
        "REPEAT_BACK 0 -3", "ROPE_BACK 2 +0", "ROPE_BACK 2 -0", "SET 1 +0", "SET 1 +1", "SET 1 +2",
        "SET 1 +3", "SET_ROWS 1 +2", "SOFT_MAX 1 +1", "SOFT_MAX 1 +2", "SOFT_MAX 1 +3", "SSM_SCAN 0 +3",
        "SSM_SCAN 0 -3", "SUB 1 +0", "SUB 1 +3", "SUM 0 +0", "SUM 0 +1", "SUM 0 +2", "SUM 0 +3", "SUM 0 -0",
        "SUM 0 -1", "SUM 0 -2", "SUM 0 -3", "SUM_ROWS 0 +0", "SUM_ROWS 0 -0", "TOP_K 0 +0", "TOP_K 0 -0",
        "UPSCALE 0 +0", "UPSCALE 0 +1", "UPSCALE 0 +2", "UPSCALE 0 +3", "UPSCALE 0 -0", "UPSCALE 0 -1", "UPSCALE 0 -2",
        "UPSCALE 0 -3", "WIN_PART 0 +1", "WIN_PART 0 +2", "WIN_PART 0 -1"}));
}

// Zeros, with a page that nobody may touch right behind them, or right before. Never given back.
void * fenced(size_t size, bool behind) {
    const size_t pages = whole_pages(size);
    auto * begin = static_cast<std::byte *>(
        ::mmap(nullptr, pages + 2 * page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + page_size();
    ::mprotect(begin, pages, PROT_READ | PROT_WRITE);
    return begin + (behind ? pages - size : 0);
}

// The node's result, computed by the CPU.
void compute(ggml_tensor & node, bool fence_behind) {
    for (ggml_tensor * source : node.src) {
        if (source != nullptr && source != &node) {
            source->op = GGML_OP_NONE;
            source->view_src = nullptr;
            const bool is_read_beyond = node.op == GGML_OP_ROPE || node.op == GGML_OP_ROPE_BACK;
            source->data = fenced(ggml_nbytes(source) + (is_read_beyond ? read_beyond : 0), fence_behind);
        }
    }
    node.data = fenced(ggml_nbytes(&node), fence_behind);
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = ggml_graph_overhead(), .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    ggml_cgraph * graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, &node);
    test::cpu_devices().compute(0, graph);
}

// A node, changed in a way that is accepted.
struct Accepted {
    std::string what;
    std::function<void(ggml_tensor & result, ggml_tensor * sources)> change;
    bool fence_behind;
};

// Computes them in a child process; those that it did not live to see in another. Assertions of ggml's end one too.
void compute_in_children(const ggml_tensor & node, const std::vector<Accepted> & cases) {
    auto & at = *static_cast<volatile size_t *>(
        ::mmap(nullptr, page_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (size_t begin = 0; begin < cases.size(); begin = at + 1) {
        at = begin;
        const auto outcome = test::ask_in_child([&] {
            ggml_set_abort_callback([](const char *) { ::_exit(0); });
            for (; at < cases.size(); at = at + 1) {
                ::alarm(10);
                accepts(node, [&](ggml_tensor & copy, ggml_tensor * sources) {
                    cases[at].change(copy, sources);
                    compute(copy, cases[at].fence_behind);
                });
            }
            return true;
        });
        EXPECT_EQ(outcome, test::Outcome::yes) << text_of(node) << ", " << (at < cases.size() ? cases[at].what : "the last");
    }
    ::munmap(const_cast<size_t *>(&at), page_size());
}

TEST_F(OpCheck, WhatIsAcceptedStaysWithinItsTensors) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the kernels are the same as in other builds";
#endif
    test::cpu_devices();
    size_t tried = 0;
    for (const ggml_tensor * node : valid()) {
        std::vector<Accepted> cases;
        const auto add = [&](std::string_view what, const std::function<void(ggml_tensor & source)> & change) {
            for (int s = -1; s < GGML_MAX_SRC && (s < 0 || node->src[s] != nullptr); ++s) {
                const auto spoil = [=](ggml_tensor & result, ggml_tensor * sources) { change(s < 0 ? result : sources[s]); };
                if ((s >= 0 && node->src[s] == node) || !accepts(*node, spoil)) {
                    continue;
                }
                for (const bool fence_behind : {false, true}) {
                    cases.push_back({formatted("source {} {}, fence {}", s, what, fence_behind ? "behind" : "before"), spoil,
                                     fence_behind});
                }
            }
        };
        add("as it is", [](ggml_tensor &) {});
        add("with columns for rows", lay_across);
        add("with one row", [](ggml_tensor & source) { source.nb[1] = source.nb[2] = source.nb[3] = 0; });
        for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
            add(formatted("smaller in {}", dim), [=](ggml_tensor & source) { resize(source, dim, -1); });
            add(formatted("larger in {}", dim), [=](ggml_tensor & source) { resize(source, dim, 1); });
        }
        compute_in_children(*node, cases);
        tried += cases.size();
    }
    EXPECT_GT(tried, 3000u);
}

// Nodes that are as they should be but for one thing, their shapes made to fit it.
TEST_F(OpCheck, WhatIsMadeToFitIsRefusedToo) {
    using Spoil = std::function<void(ggml_tensor & node, ggml_tensor * sources)>;
    const auto refused = [](std::string_view what, const ggml_tensor * node, const Spoil & spoil) {
        EXPECT_TRUE(check_op(*node, true)) << what;
        EXPECT_FALSE(accepts(*node, [&](ggml_tensor & copy, ggml_tensor * sources) {
            spoil(copy, sources);
            make_contiguous(copy);
        })) << what;
    };
    const auto number = [](float value) { return std::bit_cast<int32_t>(value); };
    const auto soft_max = [&] { return ggml_soft_max(c(), t(F, 8, 4, 6)); };
    const auto attention = [&] {
        return ggml_flash_attn_ext(c(), t(F, 64, 3, 4), t(H, 64, 32, 4), t(H, 64, 32, 4), nullptr, 1, 0, 0);
    };
    const auto positions = [&] {
        int sections[4] = {8, 8, 8, 8};
        return ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 64, sections, GGML_ROPE_TYPE_MROPE, 0, 1e4F, 1, 0, 1, 32, 1);
    };
    const auto scan = [&](int64_t a, int32_t snapshots) {
        return ggml_ssm_scan(c(), t(F, 16, 8, 2, 5), t(F, 8, 2, 4, 3), t(F, 2, 4, 3), t(F, a, 2), t(F, 16, 1, 4, 3),
                             t(F, 16, 1, 4, 3), t(I, 3), snapshots);
    };
    const auto delta = [&] {
        return ggml_gated_delta_net(c(), t(F, 16, 2, 4, 3), t(F, 16, 2, 4, 3), t(F, 16, 4, 4, 3), t(F, 1, 4, 4, 3),
                                    t(F, 1, 4, 4, 3), t(F, 16, 16, 4, 3), 1);
    };
    ggml_tensor * hadamard = ggml_mul_mat(c(), t(F, 64, 64), t(F, 64, 4));
    ggml_mul_mat_set_hint(hadamard, GGML_HINT_SRC0_IS_HADAMARD);
    refused("a matrix that is none of Hadamard's", hadamard, [](ggml_tensor & node, ggml_tensor * sources) {
        sources[0].ne[0] = sources[0].ne[1] = sources[1].ne[0] = node.ne[0] = 48;
        make_contiguous(sources[0]);
        make_contiguous(sources[1]);
    });
    refused("a bias without a mask", soft_max(), [&](ggml_tensor & node, ggml_tensor *) { node.op_params[1] = number(8); });
    refused("a bias without a mask", soft_max(), [&](ggml_tensor & node, ggml_tensor *) { node.op_params[1] = 0x7fc00000; });
    refused("a bias without a mask", attention(), [&](ggml_tensor & node, ggml_tensor *) { node.op_params[1] = number(8); });
    for (const int i : {11, 12, 13, 14}) {
        refused("a section below zero", positions(), [&](ggml_tensor & node, ggml_tensor *) { node.op_params[i] = -1; });
    }
    refused("no sections", positions(), [](ggml_tensor & node, ggml_tensor *) {
        node.op_params[11] = node.op_params[12] = node.op_params[13] = 0;
    });
    for (const int snapshots : {0, -1}) {
        refused("no snapshots", scan(1, 1), [&](ggml_tensor & node, ggml_tensor *) {
            node.op_params[0] = snapshots;
            node.ne[0] = 8 * 2 * 4 * 3 + 16 * 8 * 2 * 3 * int64_t{snapshots};
        });
        refused("no snapshots", delta(), [&](ggml_tensor & node, ggml_tensor *) {
            node.op_params[0] = snapshots;
            node.ne[1] = 4 * 3 + 16 * 3 * int64_t{snapshots};
        });
    }
    refused("snapshots of states that decay each by itself", scan(16, 1), [](ggml_tensor & node, ggml_tensor *) {
        node.op_params[0] = 2;
        node.ne[0] = 8 * 2 * 4 * 3 + 16 * 8 * 2 * 3 * 2;
    });
    refused("a kernel larger than the image", ggml_im2col_3d(c(), t(F, 3, 3, 3, 2), t(F, 10, 9, 8, 4), 2, 1, 1, 1, 0, 0, 0, 1, 1, 1, F),
            [](ggml_tensor & node, ggml_tensor * sources) {
                sources[0].ne[0] = 11;
                make_contiguous(sources[0]);
                node.ne[0] = 11 * 3 * 3 * 2;
                node.ne[1] = 0;
            });
    ggml_tensor * channels = ggml_conv_2d_dw_direct(c(), t(F, 3, 3, 1, 4), t(F, 10, 9, 4, 3), 1, 1, 0, 0, 1, 1);
    EXPECT_FALSE(accepts(*channels, [](ggml_tensor & node, ggml_tensor *) {
        node.nb[2] = 4;
        node.nb[0] = 4 * static_cast<size_t>(node.ne[2]);
        node.nb[1] = node.nb[0] * static_cast<size_t>(node.ne[0]);
    })) << "channels innermost in the result only";
    const auto line = [&] { return ggml_conv_transpose_1d(c(), t(F, 3, 5, 7), t(F, 9, 7), 2, 0, 1); };
    const auto plane = [&] { return ggml_conv_transpose_2d_p0(c(), t(H, 3, 3, 5, 7), t(F, 9, 8, 7, 2), 2); };
    refused("steps of nothing", line(), [](ggml_tensor & node, ggml_tensor *) { node.op_params[0] = 0, node.ne[0] = 3; });
    refused("a padding", line(), [](ggml_tensor & node, ggml_tensor *) { node.op_params[1] = 1; });
    refused("gaps", line(), [](ggml_tensor & node, ggml_tensor *) { node.op_params[2] = 2; });
    refused("steps of nothing", plane(), [](ggml_tensor & node, ggml_tensor *) {
        node.op_params[0] = 0;
        node.ne[0] = node.ne[1] = 3;
    });
    for (const int dim : {-1, 4}) {
        refused("a dimension that does not exist", ggml_concat(c(), t(F, 4, 5), t(F, 4, 5), 0), [&](ggml_tensor & node, ggml_tensor *) {
            node.op_params[0] = dim;
            node.ne[0] = 4;
        });
    }
    refused("something taken away", ggml_pad(c(), t(F, 4, 5), 1, 0, 0, 0), [](ggml_tensor & node, ggml_tensor *) {
        node.op_params[0] = -1;
        node.op_params[1] = 2;
    });
    refused("more reflected than there is", ggml_pad_reflect_1d(c(), t(F, 4, 5), 1, 2), [](ggml_tensor & node, ggml_tensor *) {
        node.op_params[0] = 4;
        node.ne[0] = 4 + 4 + 2;
    });
    refused("nothing, again and again", ggml_pad_ext_circular(c(), t(F, 4, 5), 1, 1, 0, 0, 0, 0, 0, 0),
            [](ggml_tensor & node, ggml_tensor * sources) {
                sources[0].ne[0] = 0;
                make_contiguous(sources[0]);
                node.ne[0] = 2;
            });
    refused("more than can be numbered", ggml_top_k(c(), t(F, 40, 2), 4), [](ggml_tensor &, ggml_tensor * sources) {
        sources[0].ne[0] = int64_t{1} << 31;
        make_contiguous(sources[0]);
    });
}

// Splitting a model by tensors leaves nodes without elements, whose sources do not fit together. ggml computes nothing
// for them, so a device is not even shown them.
TEST_F(OpCheck, AnyOpMayHaveAnEmptyResult) {
    BufferTable table;
    const uint64_t buffer = table.allocate(test::cpu_devices().buffer_type(0), 0, 1 << 20).value();
    for (const ggml_tensor * node : valid()) {
        GraphDescription description;
        const auto add = [&](const ggml_tensor & tensor) {
            wire::GraphTensor & wired = description.tensors.emplace_back();
            wired.type = tensor.type;
            for (int i = 0; i < GGML_MAX_DIMS; ++i) {
                wired.ne[i] = static_cast<uint64_t>(tensor.ne[i]);
                wired.nb[i] = tensor.nb[i];
            }
            wired.address = buffer;
        };
        for (const ggml_tensor * src : node->src) {
            if (src != nullptr && src != node) {
                add(*src);
            }
        }
        add(*node);
        wire::GraphTensor & empty = description.tensors.back();
        empty.op = node->op;
        empty.flags = GGML_TENSOR_FLAG_COMPUTE;
        empty.ne[1] = 0;
        for (uint32_t i = 0; i + 1 < description.tensors.size(); ++i) {
            empty.src[i] = i + 1;
        }
        std::memcpy(empty.op_params, node->op_params, sizeof empty.op_params);
        empty.is_node = 1;
        description = describe_graph(std::move(description.tensors));
        const auto graph = build_graph(description, test::cpu_devices().device(0), table);
        ASSERT_TRUE(graph) << text_of(*node) << ": " << graph.error().text;
        EXPECT_EQ(ggml_graph_n_nodes(graph->graph), 0) << text_of(*node);
        EXPECT_EQ(supported_nodes(description, test::cpu_devices().device(0)), std::vector<uint8_t>{1}) << text_of(*node);
    }
}

TEST_F(OpCheck, ErrorsSayWhatIsWrong) {
    ggml_tensor broken = *ggml_mul_mat(c(), t(F, 8, 6), t(F, 8, 4));
    broken.ne[0] = 7;
    make_contiguous(broken);
    EXPECT_EQ(check_op(broken, true).error().text,
              "its result does not have the shape that its sources and parameters give: f32[7,4,1,1] from f32[8,6,1,1], "
              "f32[8,4,1,1]");
}

// Indices, in a graph that is built.
class IndexCheck : public testing::Test {
protected:
    static constexpr uint64_t size = 64 * 1024;
    IndexCheck() : buffer(table.allocate(test::cpu_devices().buffer_type(0), 0, size).value()) {
        std::memset(table.find(buffer)->base, 0, size);
    }
    wire::Tensor place(uint64_t id, ggml_type type, test::Shape ne, uint64_t offset) {
        return test::wire_tensor(id, type, ne, buffer, buffer + offset);
    }
    void put(uint64_t offset, std::vector<int32_t> values) {
        std::memcpy(table.find(buffer)->base + offset, values.data(), values.size() * sizeof(int32_t));
    }
    Result<Graph> build(const std::vector<uint64_t> & nodes, const std::vector<wire::Tensor> & tensors) {
        return describe_stock_graph(test::graph_payload(0, 1, nodes, tensors)).and_then([&](const auto & description) {
            return build_graph(description, test::cpu_devices().device(0), table);
        });
    }
    // Rows of 4 floats: 8 of them, of which 3 are taken, by indices at 1024.
    std::vector<wire::Tensor> rows() {
        return {place(1, F, {4, 8, 1, 1}, 0), place(2, I, {3, 1, 1, 1}, 1024),
                test::node_of(place(3, F, {4, 3, 1, 1}, 2048), GGML_OP_GET_ROWS, {1, 2})};
    }

    BufferTable table;
    uint64_t buffer;
};

TEST_F(IndexCheck, FixedIndicesAreLookedAtBeforeEachLaunch) {
    const auto graph = build({3}, rows());
    ASSERT_TRUE(graph) << graph.error().text;
    ASSERT_EQ(graph->indices.size(), 1U);
    EXPECT_EQ(graph->indices[0].limit, 8);
    put(1024, {0, 7, 3});
    EXPECT_TRUE(check_indices(graph->indices));
    for (const int32_t wrong : {8, -1, INT32_MAX, INT32_MIN}) {
        put(1024, {0, 7, wrong});
        EXPECT_FALSE(check_indices(graph->indices)) << wrong;
    }
}

TEST_F(IndexCheck, IndicesOf64BitsAndWithGaps) {
    auto indices = place(2, GGML_TYPE_I64, {1, 2, 1, 1}, 1024);
    indices.nb[1] = 64;
    const auto graph = build({4}, {place(1, F, {4, 1, 2, 1}, 0), indices, place(3, F, {4, 8, 2, 1}, 4096),
                                   test::node_of(place(4, F, {4, 8, 2, 1}, 4096), GGML_OP_SET_ROWS, {1, 2, 3})});
    ASSERT_TRUE(graph) << graph.error().text;
    put(1024, {7, 0});
    put(1024 + 64, {0, 0});
    EXPECT_TRUE(check_indices(graph->indices));
    put(1024 + 64, {0, 1});  // 1 << 32
    EXPECT_FALSE(check_indices(graph->indices));
}

TEST_F(IndexCheck, WhatTheGraphComputesIsLeftToTheKernels) {
    auto tensors = rows();
    tensors[1] = test::node_of(tensors[1], GGML_OP_ARGSORT, {4});
    tensors.push_back(place(4, F, {3, 1, 1, 1}, 3072));
    const auto graph = build({2, 3}, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    EXPECT_TRUE(graph->indices.empty());
}

TEST_F(IndexCheck, ManyNodesWithTheSameIndicesCostOneLook) {
    auto tensors = rows();
    std::vector<uint64_t> nodes{3};
    for (uint64_t id = 4; id < 40; ++id) {
        tensors.push_back(test::node_of(place(id, F, {4, 3, 1, 1}, 2048 + 64 * id), GGML_OP_GET_ROWS, {1, 2}));
        nodes.push_back(id);
    }
    const auto graph = build(nodes, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    EXPECT_EQ(graph->indices.size(), 1U);
}

}  // namespace
}  // namespace caravan::server
