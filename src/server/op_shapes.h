// How the shapes of an op's sources, result and parameters belong together: what ggml's constructors assert and what
// its kernels rely on. Each function looks at a node whose sources and types are as its row in op_table.cc says.
#pragma once

#include "server/op_table.h"

namespace caravan::server::shapes {

// Element by element
Objection same(const ggml_tensor & node);  // as source 0
Objection all_same(const ggml_tensor & node);  // all sources
Objection binary(const ggml_tensor & node);
Objection add_id(const ggml_tensor & node);
Objection add1(const ggml_tensor & node);
Objection window(const ggml_tensor & node);  // ACC, SET
Objection copy(const ggml_tensor & node);
Objection cont(const ggml_tensor & node);
Objection unary(const ggml_tensor & node);
Objection glu(const ggml_tensor & node);
Objection norm(const ggml_tensor & node);
Objection norm_back(const ggml_tensor & node);
Objection group_norm(const ggml_tensor & node);
Objection diag_mask(const ggml_tensor & node);
Objection contiguous(const ggml_tensor & node);  // and same
Objection tri(const ggml_tensor & node);
Objection roll(const ggml_tensor & node);
Objection adamw(const ggml_tensor & node);
Objection sgd(const ggml_tensor & node);

// Reductions and rearrangements
Objection scalar(const ggml_tensor & node);
Objection scalar_of_same(const ggml_tensor & node);
Objection one_per_row(const ggml_tensor & node);
Objection argmax(const ggml_tensor & node);
Objection argsort(const ggml_tensor & node);
Objection top_k(const ggml_tensor & node);
Objection repeat(const ggml_tensor & node);
Objection repeat_back(const ggml_tensor & node);
Objection concat(const ggml_tensor & node);
Objection diag(const ggml_tensor & node);
Objection pad(const ggml_tensor & node);
Objection pad_reflect(const ggml_tensor & node);
Objection upscale(const ggml_tensor & node);
Objection arange(const ggml_tensor & node);
Objection timestep_embedding(const ggml_tensor & node);
Objection get_rows(const ggml_tensor & node);
Objection get_rows_back(const ggml_tensor & node);
Objection set_rows(const ggml_tensor & node);
Objection win_part(const ggml_tensor & node);
Objection win_unpart(const ggml_tensor & node);
Objection get_rel_pos(const ggml_tensor & node);
Objection add_rel_pos(const ggml_tensor & node);
Objection cross_entropy_back(const ggml_tensor & node);

// Products, attention, recurrences
Objection mul_mat(const ggml_tensor & node);
Objection mul_mat_id(const ggml_tensor & node);
Objection out_prod(const ggml_tensor & node);
Objection soft_max(const ggml_tensor & node);
Objection rope(const ggml_tensor & node);
Objection flash_attn(const ggml_tensor & node);
Objection ssm_conv(const ggml_tensor & node);
Objection ssm_scan(const ggml_tensor & node);
Objection rwkv6(const ggml_tensor & node);
Objection gated_linear_attn(const ggml_tensor & node);
Objection rwkv7(const ggml_tensor & node);
Objection gated_delta_net(const ggml_tensor & node);
Objection solve_tri(const ggml_tensor & node);
Objection lightning_indexer(const ggml_tensor & node);
Objection hc_comb(const ggml_tensor & node);
Objection hc_pre(const ggml_tensor & node);
Objection hc_post(const ggml_tensor & node);

// Convolutions and pools
Objection im2col(const ggml_tensor & node);
Objection im2col_back(const ggml_tensor & node);
Objection im2col_3d(const ggml_tensor & node);
Objection col2im(const ggml_tensor & node);
Objection conv_2d(const ggml_tensor & node);
Objection conv_2d_dw(const ggml_tensor & node);
Objection conv_3d(const ggml_tensor & node);
Objection conv_transpose_1d(const ggml_tensor & node);
Objection conv_transpose_2d(const ggml_tensor & node);
Objection pool_1d(const ggml_tensor & node);
Objection pool_2d(const ggml_tensor & node);
Objection pool_2d_back(const ggml_tensor & node);

// What kernels of the CPU take for granted besides
Objection cpu_dense(const ggml_tensor & node);       // no tensor spans fewer bytes than its elements have
Objection cpu_rows(const ggml_tensor & node);        // rows lie at multiples of nb[1]
Objection cpu_contiguous(const ggml_tensor & node);  // all sources and the result
Objection cpu_copy(const ggml_tensor & node);
Objection cpu_add(const ggml_tensor & node);
Objection cpu_count_equal(const ggml_tensor & node);
Objection cpu_rope(const ggml_tensor & node);
Objection cpu_rwkv7(const ggml_tensor & node);
Objection cpu_planes(const ggml_tensor & node);      // source 1 consists of whole planes

}  // namespace caravan::server::shapes
