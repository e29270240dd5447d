// The checks of each ggml op, one row for each; see op_check.h.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace caravan::server {

// A message that describes what is wrong with a node, or null.
using Violation = const char *;

struct OpRow {
    const char * name = nullptr;  // ggml's name of the op; null: refused
    int required = 0;             // number of leading sources that must be present
    // Types of the leading sources, one character each: * any, = that of source 0, f F32, e F16, h F32 or F16,
    // b F32, F16 or BF16, i I32, j I32 or I64, d a type with dot products (floating-point or quantized).
    const char * types = "";
    char result = '=';  // type of the result: as above; also l I64, 1 and 2 the types of sources 1 and 2
    bool is_new = false;  // the result is never a view of a source and must be contiguous
    Violation (*relation)(const ggml_tensor & node) = nullptr;
    Violation (*cpu)(const ggml_tensor & node) = nullptr;  // additional check for CPU devices
};

// Null if clients may not send the op.
const OpRow * row_of(uint32_t op);

}  // namespace caravan::server
