// Which nodes are accepted, and which changes of them are refused.
#include "server/ops/op_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <set>
#include <string>

#include "base/formatted.h"
#include "server/graph/graph_builder.h"
#include "server/ops/op_table.h"
#include "support/cpu_device.h"
#include "support/op_nodes.h"

namespace caravan::server {
namespace {

using test::accepts;
using test::F;
using test::H;
using test::I;
using test::lay_across;
using test::make_contiguous;
using test::resize;
using test::text_of;

using OpCheck = test::OpNodes;

TEST_F(OpCheck, TableMatchesGgmlsOpNames) { EXPECT_TRUE(check_op_table()); }

TEST_F(OpCheck, AcceptsNodesMadeByGgml) {
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

TEST_F(OpCheck, RefusesMissingSource) {
    for (const ggml_tensor * node : valid()) {
        for (int s = 0; s < row_of(node->op)->required; ++s) {
            ggml_tensor broken = *node;
            broken.src[s] = nullptr;
            EXPECT_FALSE(check_op(broken, false)) << text_of(*node) << " without source " << s;
        }
    }
}

// Dimensions of a result that sources and parameters do not determine.
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

TEST_F(OpCheck, RefusesWrongResultShape) {
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

TEST_F(OpCheck, RefusesWrongResultType) {
    for (const ggml_tensor * node : valid()) {
        ggml_tensor broken = *node;
        broken.type = node->type == GGML_TYPE_I8 ? F : GGML_TYPE_I8;
        make_contiguous(broken);
        EXPECT_TRUE(node->op == GGML_OP_ADD || node->src[1] == node || !check_op(broken, false)) << text_of(*node);
    }
}

// Shrinks each source in each dimension, except where the smaller source is broadcast or makes another valid op.
TEST_F(OpCheck, RefusesSmallerSource) {
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
                // Exceptions: row counts of tables, broadcast and rounding.
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

// The checks must neither trap nor overflow, whatever the parameters.
TEST_F(OpCheck, ToleratesAnyParameterValue) {
    for (const ggml_tensor * node : valid()) {
        for (int i = 0; i < 16; ++i) {
            for (const int32_t value : {0, 1, -1, 7, 0x7f800000, 0x7fc00000, INT32_MAX, INT32_MIN}) {
                ggml_tensor broken = *node;
                broken.op_params[i] = value;
                (void) check_op(broken, true);  // no trap; UBSan: no overflow
            }
        }
    }
}

struct BadParameter {
    ggml_op op;
    int index;
    std::vector<int32_t> values;
};

TEST_F(OpCheck, RefusesParameterOutOfRange) {
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

// An ACC whose offset is in bounds but whose strides leave the result.
TEST_F(OpCheck, RefusesWindowOutsideResult) {
    ggml_tensor * node = ggml_acc(c(), t(F, 8, 8), t(F, 4, 4), 32, 256, 256, 16);
    EXPECT_TRUE(check_op(*node, true));
    for (const int32_t stride : {-32, 64 + 32, INT32_MAX, INT32_MIN}) {
        ggml_tensor broken = *node;
        broken.op_params[0] = stride;
        EXPECT_FALSE(check_op(broken, true)) << stride;
    }
}

// Kernels that ignore strides would leave a tensor that spans fewer bytes than its elements have.
TEST_F(OpCheck, RefusesStridesThatHideOverread) {
    for (const ggml_tensor * node :
         {ggml_pool_2d(c(), t(F, 10, 9, 2), GGML_OP_POOL_AVG, 3, 3, 1, 1, 0, 0), ggml_win_part(c(), t(F, 8, 10, 9), 4),
          ggml_conv_2d_direct(c(), t(F, 3, 3, 2, 4), t(F, 10, 9, 2, 3), 1, 1, 0, 0, 1, 1),
          ggml_rwkv_wkv7(c(), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6), t(F, 64, 2, 6),
                         t(F, 8192, 1))}) {
        ggml_tensor source = *node->src[0];
        source.nb[1] = source.nb[2] = source.nb[3] = 0;
        ggml_tensor broken = *node;
        broken.src[0] = &source;
        EXPECT_FALSE(check_op(broken, true)) << text_of(*node);
    }
}

// "op source" for each source that may be changed by `change`, in at least one of the valid nodes.
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

TEST_F(OpCheck, SourcesThatMayBeTransposed) {
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

TEST_F(OpCheck, SourcesThatMayRepeatARow) {
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

TEST_F(OpCheck, SourcesThatMayBeResized) {
    std::set<std::string> resized;
    for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
        for (const int change : {-1, 1}) {
            for (const std::string & one :
                 accepting(valid(), [&](ggml_tensor & source) { return resize(source, dim, change); })) {
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

// Nodes with one invalid property, whose result shapes are adjusted to it.
TEST_F(OpCheck, RefusesInvalidPropertyWithMatchingShape) {
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
        return ggml_rope_multi(c(), t(F, 64, 4, 3), t(I, 12), nullptr, 64, sections, GGML_ROPE_TYPE_MROPE, 0, 1e4F, 1, 0, 1, 32,
                               1);
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
    refused("a kernel larger than the image",
            ggml_im2col_3d(c(), t(F, 3, 3, 3, 2), t(F, 10, 9, 8, 4), 2, 1, 1, 1, 0, 0, 0, 1, 1, 1, F),
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
        refused("a dimension that does not exist", ggml_concat(c(), t(F, 4, 5), t(F, 4, 5), 0),
                [&](ggml_tensor & node, ggml_tensor *) {
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

// Splitting a model by tensors leaves empty nodes whose sources do not match. ggml computes nothing for them, so devices are
// not queried about them.
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

TEST_F(OpCheck, ErrorsNameViolationAndShapes) {
    ggml_tensor broken = *ggml_mul_mat(c(), t(F, 8, 6), t(F, 8, 4));
    broken.ne[0] = 7;
    make_contiguous(broken);
    EXPECT_EQ(check_op(broken, true).error().text,
              "its result has the wrong shape for its sources and parameters: f32[7,4,1,1] from f32[8,6,1,1], "
              "f32[8,4,1,1]");
}

}  // namespace
}  // namespace caravan::server
