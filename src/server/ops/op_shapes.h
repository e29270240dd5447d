// The relations between the shapes of an op's sources and result and its parameters, which ggml's constructors assert and its
// kernels rely on. Each function requires a node whose sources and types match its row in op_table.cc, and returns the
// violation or null.
#pragma once

#include "server/ops/op_table.h"

namespace caravan::server::shapes {

// Element-wise ops
Violation same(const ggml_tensor & node);  // the shape of source 0
Violation all_same(const ggml_tensor & node);  // all sources
Violation binary(const ggml_tensor & node);
Violation add_id(const ggml_tensor & node);
Violation add1(const ggml_tensor & node);
Violation window(const ggml_tensor & node);  // ACC, SET
Violation copy(const ggml_tensor & node);
Violation cont(const ggml_tensor & node);
Violation unary(const ggml_tensor & node);
Violation glu(const ggml_tensor & node);
Violation norm(const ggml_tensor & node);
Violation norm_back(const ggml_tensor & node);
Violation group_norm(const ggml_tensor & node);
Violation diag_mask(const ggml_tensor & node);
Violation contiguous(const ggml_tensor & node);  // contiguous, and same()
Violation tri(const ggml_tensor & node);
Violation roll(const ggml_tensor & node);
Violation adamw(const ggml_tensor & node);
Violation sgd(const ggml_tensor & node);

// Reductions and rearrangements
Violation scalar(const ggml_tensor & node);
Violation scalar_of_same(const ggml_tensor & node);
Violation one_per_row(const ggml_tensor & node);
Violation argmax(const ggml_tensor & node);
Violation argsort(const ggml_tensor & node);
Violation top_k(const ggml_tensor & node);
Violation repeat(const ggml_tensor & node);
Violation repeat_back(const ggml_tensor & node);
Violation concat(const ggml_tensor & node);
Violation diag(const ggml_tensor & node);
Violation pad(const ggml_tensor & node);
Violation pad_reflect(const ggml_tensor & node);
Violation upscale(const ggml_tensor & node);
Violation arange(const ggml_tensor & node);
Violation timestep_embedding(const ggml_tensor & node);
Violation get_rows(const ggml_tensor & node);
Violation get_rows_back(const ggml_tensor & node);
Violation set_rows(const ggml_tensor & node);
Violation win_part(const ggml_tensor & node);
Violation win_unpart(const ggml_tensor & node);
Violation get_rel_pos(const ggml_tensor & node);
Violation add_rel_pos(const ggml_tensor & node);
Violation cross_entropy_back(const ggml_tensor & node);

// Products, attention, recurrences
Violation mul_mat(const ggml_tensor & node);
Violation mul_mat_id(const ggml_tensor & node);
Violation out_prod(const ggml_tensor & node);
Violation soft_max(const ggml_tensor & node);
Violation rope(const ggml_tensor & node);
Violation flash_attn(const ggml_tensor & node);
Violation ssm_conv(const ggml_tensor & node);
Violation ssm_scan(const ggml_tensor & node);
Violation rwkv6(const ggml_tensor & node);
Violation gated_linear_attn(const ggml_tensor & node);
Violation rwkv7(const ggml_tensor & node);
Violation gated_delta_net(const ggml_tensor & node);
Violation solve_tri(const ggml_tensor & node);
Violation lightning_indexer(const ggml_tensor & node);
Violation hc_comb(const ggml_tensor & node);
Violation hc_pre(const ggml_tensor & node);
Violation hc_post(const ggml_tensor & node);

// Convolutions and pools
Violation im2col(const ggml_tensor & node);
Violation im2col_back(const ggml_tensor & node);
Violation im2col_3d(const ggml_tensor & node);
Violation col2im(const ggml_tensor & node);
Violation conv_2d(const ggml_tensor & node);
Violation conv_2d_dw(const ggml_tensor & node);
Violation conv_3d(const ggml_tensor & node);
Violation conv_transpose_1d(const ggml_tensor & node);
Violation conv_transpose_2d(const ggml_tensor & node);
Violation pool_1d(const ggml_tensor & node);
Violation pool_2d(const ggml_tensor & node);
Violation pool_2d_back(const ggml_tensor & node);

// Additional assumptions of the CPU's kernels
Violation cpu_dense(const ggml_tensor & node);       // each tensor spans at least the bytes of its elements
Violation cpu_rows(const ggml_tensor & node);        // each tensor is contiguous from dimension 1 on
Violation cpu_contiguous(const ggml_tensor & node);  // all sources and the result
Violation cpu_copy(const ggml_tensor & node);
Violation cpu_add(const ggml_tensor & node);
Violation cpu_count_equal(const ggml_tensor & node);
Violation cpu_rope(const ggml_tensor & node);
Violation cpu_rwkv7(const ggml_tensor & node);
Violation cpu_planes(const ggml_tensor & node);      // source 1 consists of whole planes

}  // namespace caravan::server::shapes
