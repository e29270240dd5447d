#pragma once

#include "ggml.h"

namespace caravan::abi {

// True for ops whose result is a view of their source. No device computes them.
constexpr bool moves_no_data(ggml_op op) {
    return op == GGML_OP_NONE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE || op == GGML_OP_PERMUTE ||
           op == GGML_OP_TRANSPOSE;
}

}  // namespace caravan::abi
