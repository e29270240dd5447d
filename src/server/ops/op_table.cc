#include "server/ops/op_table.h"

#include <array>

#include "server/ops/op_shapes.h"

namespace caravan::server {
namespace {

constexpr int known_ops = 101;
static_assert(GGML_OP_COUNT == known_ops, "ggml's ops have changed: add a row for each new op");

using namespace shapes;
constexpr bool is_new = true, or_view = false;

constexpr std::array<OpRow, known_ops> make_table() {
    std::array<OpRow, known_ops> t{};
    // These compute nothing; tensor_check.h and the graph builder check where they lie.
    t[GGML_OP_NONE] = {"NONE", 0, "", '*'};
    t[GGML_OP_RESHAPE] = {"RESHAPE", 0, "", '*'};
    t[GGML_OP_VIEW] = {"VIEW", 0, "", '*'};
    t[GGML_OP_PERMUTE] = {"PERMUTE", 0, "", '*'};
    t[GGML_OP_TRANSPOSE] = {"TRANSPOSE", 0, "", '*'};

    t[GGML_OP_DUP] = {"DUP", 1, "*", '=', or_view, same, cpu_copy};
    t[GGML_OP_ADD] = {"ADD", 2, "**", '*', or_view, binary, cpu_add};
    t[GGML_OP_ADD_ID] = {"ADD_ID", 3, "**i", '=', or_view, add_id};
    t[GGML_OP_ADD1] = {"ADD1", 2, "**", '=', or_view, add1};
    t[GGML_OP_ACC] = {"ACC", 2, "ff", 'f', or_view, window};
    t[GGML_OP_SUB] = {"SUB", 2, "**", '=', or_view, binary};
    t[GGML_OP_MUL] = {"MUL", 2, "**", '=', or_view, binary};
    t[GGML_OP_DIV] = {"DIV", 2, "**", '=', or_view, binary};
    t[GGML_OP_SQR] = {"SQR", 1, "*", '=', or_view, same};
    t[GGML_OP_SQRT] = {"SQRT", 1, "*", '=', or_view, same};
    t[GGML_OP_LOG] = {"LOG", 1, "*", '=', or_view, same};
    t[GGML_OP_SIN] = {"SIN", 1, "*", '=', or_view, same};
    t[GGML_OP_COS] = {"COS", 1, "*", '=', or_view, same};
    t[GGML_OP_SUM] = {"SUM", 1, "*", '=', is_new, scalar};
    t[GGML_OP_SUM_ROWS] = {"SUM_ROWS", 1, "*", '=', is_new, one_per_row};
    t[GGML_OP_CUMSUM] = {"CUMSUM", 1, "f", 'f', is_new, same};
    t[GGML_OP_MEAN] = {"MEAN", 1, "*", 'f', is_new, one_per_row};
    t[GGML_OP_ARGMAX] = {"ARGMAX", 1, "*", 'i', is_new, argmax};
    t[GGML_OP_COUNT_EQUAL] = {"COUNT_EQUAL", 2, "*=", 'l', is_new, scalar_of_same, cpu_count_equal};
    t[GGML_OP_REPEAT] = {"REPEAT", 1, "*", '=', is_new, repeat};
    t[GGML_OP_REPEAT_BACK] = {"REPEAT_BACK", 1, "*", '=', is_new, repeat_back};
    t[GGML_OP_CONCAT] = {"CONCAT", 2, "*=", '=', is_new, concat};
    t[GGML_OP_SILU_BACK] = {"SILU_BACK", 2, "*=", '=', is_new, all_same, cpu_rows};
    t[GGML_OP_NORM] = {"NORM", 1, "*", '=', or_view, norm};
    t[GGML_OP_RMS_NORM] = {"RMS_NORM", 1, "*", '=', or_view, norm};
    t[GGML_OP_RMS_NORM_BACK] = {"RMS_NORM_BACK", 2, "*=", '=', is_new, norm_back};
    t[GGML_OP_GROUP_NORM] = {"GROUP_NORM", 1, "*", '=', or_view, group_norm};
    t[GGML_OP_L2_NORM] = {"L2_NORM", 1, "*", '=', or_view, norm};

    t[GGML_OP_MUL_MAT] = {"MUL_MAT", 2, "d*", 'f', is_new, mul_mat};
    t[GGML_OP_MUL_MAT_ID] = {"MUL_MAT_ID", 3, "d*i", 'f', is_new, mul_mat_id};
    t[GGML_OP_OUT_PROD] = {"OUT_PROD", 2, "**", 'f', is_new, out_prod};

    t[GGML_OP_SCALE] = {"SCALE", 1, "*", '=', or_view, same};
    t[GGML_OP_SET] = {"SET", 2, "*=", '=', or_view, window};
    t[GGML_OP_CPY] = {"CPY", 2, "**", '1', or_view, copy, cpu_copy};
    t[GGML_OP_CONT] = {"CONT", 1, "*", '=', is_new, cont, cpu_copy};
    t[GGML_OP_GET_ROWS] = {"GET_ROWS", 2, "*i", '*', is_new, get_rows};
    t[GGML_OP_GET_ROWS_BACK] = {"GET_ROWS_BACK", 2, "*i", 'f', is_new, get_rows_back};
    t[GGML_OP_SET_ROWS] = {"SET_ROWS", 3, "*j*", '2', or_view, set_rows};
    t[GGML_OP_DIAG] = {"DIAG", 1, "*", '=', is_new, diag};
    t[GGML_OP_DIAG_MASK_INF] = {"DIAG_MASK_INF", 1, "*", '=', or_view, diag_mask};
    t[GGML_OP_DIAG_MASK_ZERO] = {"DIAG_MASK_ZERO", 1, "*", '=', or_view, diag_mask};
    t[GGML_OP_SOFT_MAX] = {"SOFT_MAX", 1, "*hf", '=', or_view, soft_max};
    t[GGML_OP_SOFT_MAX_BACK] = {"SOFT_MAX_BACK", 2, "*=", '=', or_view, all_same};
    t[GGML_OP_ROPE] = {"ROPE", 2, "*if", '=', or_view, rope, cpu_rope};
    t[GGML_OP_ROPE_BACK] = {"ROPE_BACK", 2, "*if", '=', or_view, rope, cpu_rope};
    t[GGML_OP_CLAMP] = {"CLAMP", 1, "*", '=', or_view, same};

    t[GGML_OP_CONV_TRANSPOSE_1D] = {"CONV_TRANSPOSE_1D", 2, "**", 'f', is_new, conv_transpose_1d};
    t[GGML_OP_IM2COL] = {"IM2COL", 2, "**", 'b', is_new, im2col, cpu_planes};
    t[GGML_OP_IM2COL_BACK] = {"IM2COL_BACK", 2, "**", 'f', is_new, im2col_back, cpu_dense};
    t[GGML_OP_IM2COL_3D] = {"IM2COL_3D", 2, "**", 'b', is_new, im2col_3d};
    t[GGML_OP_COL2IM_1D] = {"COL2IM_1D", 1, "b", '=', is_new, col2im};
    t[GGML_OP_CONV_2D] = {"CONV_2D", 2, "**", '1', is_new, conv_2d, cpu_dense};
    t[GGML_OP_CONV_3D] = {"CONV_3D", 2, "**", 'f', is_new, conv_3d, cpu_dense};
    t[GGML_OP_CONV_2D_DW] = {"CONV_2D_DW", 2, "**", '1', or_view, conv_2d_dw, cpu_dense};
    t[GGML_OP_CONV_TRANSPOSE_2D] = {"CONV_TRANSPOSE_2D", 2, "**", 'f', is_new, conv_transpose_2d, cpu_dense};
    t[GGML_OP_POOL_1D] = {"POOL_1D", 1, "h", 'f', is_new, pool_1d, cpu_contiguous};
    t[GGML_OP_POOL_2D] = {"POOL_2D", 1, "h", 'f', is_new, pool_2d, cpu_contiguous};
    t[GGML_OP_POOL_2D_BACK] = {"POOL_2D_BACK", 2, "fh", 'f', is_new, pool_2d_back, cpu_contiguous};
    t[GGML_OP_UPSCALE] = {"UPSCALE", 1, "f", 'f', is_new, upscale};
    t[GGML_OP_PAD] = {"PAD", 1, "*", '=', is_new, pad};
    t[GGML_OP_PAD_REFLECT_1D] = {"PAD_REFLECT_1D", 1, "f", 'f', is_new, pad_reflect};
    t[GGML_OP_ROLL] = {"ROLL", 1, "*", '=', is_new, roll};
    t[GGML_OP_ARANGE] = {"ARANGE", 0, "", 'f', is_new, arange};
    t[GGML_OP_TIMESTEP_EMBEDDING] = {"TIMESTEP_EMBEDDING", 1, "f", 'f', is_new, timestep_embedding};
    t[GGML_OP_ARGSORT] = {"ARGSORT", 1, "*", 'i', is_new, argsort};
    t[GGML_OP_TOP_K] = {"TOP_K", 1, "*", 'i', is_new, top_k};
    t[GGML_OP_LEAKY_RELU] = {"LEAKY_RELU", 1, "*", '=', or_view, same, cpu_rows};
    t[GGML_OP_TRI] = {"TRI", 1, "f", 'f', is_new, tri};
    t[GGML_OP_FILL] = {"FILL", 1, "h", '=', or_view, contiguous};

    t[GGML_OP_FLASH_ATTN_EXT] = {"FLASH_ATTN_EXT", 3, "fddef", 'f', is_new, flash_attn};
    // FLASH_ATTN_BACK is refused: ggml's constructor for it always aborts.
    t[GGML_OP_SSM_CONV] = {"SSM_CONV", 2, "ff", 'f', is_new, ssm_conv};
    t[GGML_OP_SSM_SCAN] = {"SSM_SCAN", 7, "ffffffi", 'f', is_new, ssm_scan};
    t[GGML_OP_WIN_PART] = {"WIN_PART", 1, "f", 'f', is_new, win_part, cpu_dense};
    t[GGML_OP_WIN_UNPART] = {"WIN_UNPART", 1, "f", 'f', is_new, win_unpart, cpu_dense};
    t[GGML_OP_GET_REL_POS] = {"GET_REL_POS", 1, "*", 'e', is_new, get_rel_pos, cpu_dense};
    t[GGML_OP_ADD_REL_POS] = {"ADD_REL_POS", 3, "fff", 'f', or_view, add_rel_pos, cpu_contiguous};
    t[GGML_OP_RWKV_WKV6] = {"RWKV_WKV6", 6, "ffffff", 'f', is_new, rwkv6};
    t[GGML_OP_GATED_LINEAR_ATTN] = {"GATED_LINEAR_ATTN", 5, "fffff", 'f', is_new, gated_linear_attn};
    t[GGML_OP_RWKV_WKV7] = {"RWKV_WKV7", 7, "fffffff", 'f', is_new, rwkv7, cpu_rwkv7};
    t[GGML_OP_SOLVE_TRI] = {"SOLVE_TRI", 2, "ff", 'f', is_new, solve_tri};
    t[GGML_OP_GATED_DELTA_NET] = {"GATED_DELTA_NET", 6, "ffffff", 'f', is_new, gated_delta_net};
    t[GGML_OP_LIGHTNING_INDEXER] = {"LIGHTNING_INDEXER", 4, "fdfe", 'f', is_new, lightning_indexer};
    t[GGML_OP_DSV4_HC_COMB] = {"DSV4_HC_COMB", 3, "fff", 'f', is_new, hc_comb};
    t[GGML_OP_DSV4_HC_PRE] = {"DSV4_HC_PRE", 2, "ff", 'f', is_new, hc_pre};
    t[GGML_OP_DSV4_HC_POST] = {"DSV4_HC_POST", 3, "ffff", 'f', is_new, hc_post};

    t[GGML_OP_UNARY] = {"UNARY", 1, "*", '=', or_view, unary};
    // MAP_CUSTOM1 to MAP_CUSTOM3 and CUSTOM are refused: they carry function pointers.
    t[GGML_OP_CROSS_ENTROPY_LOSS] = {"CROSS_ENTROPY_LOSS", 2, "*=", '=', is_new, scalar_of_same};
    t[GGML_OP_CROSS_ENTROPY_LOSS_BACK] = {"CROSS_ENTROPY_LOSS_BACK", 3, "fff", 'f', is_new, cross_entropy_back};
    t[GGML_OP_OPT_STEP_ADAMW] = {"OPT_STEP_ADAMW", 5, "*ffff", '=', or_view, adamw, cpu_contiguous};
    t[GGML_OP_OPT_STEP_SGD] = {"OPT_STEP_SGD", 3, "*ff", '=', or_view, sgd, cpu_contiguous};
    t[GGML_OP_GLU] = {"GLU", 1, "*=", '=', is_new, glu};
    return t;
}

constexpr std::array<OpRow, known_ops> table = make_table();

}  // namespace

const OpRow * row_of(uint32_t op) { return op < table.size() && table[op].name != nullptr ? &table[op] : nullptr; }

}  // namespace caravan::server
