// One row for each of ggml's ops: see op_check.h.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace caravan::server {

// What is wrong, or null.
using Objection = const char *;

struct OpRow {
    const char * name = nullptr;  // as ggml names it; null: not served
    int required = 0;             // sources that must be there
    // Types of the sources, in order; the sources beyond are not looked at. * any, = that of source 0, f F32, e F16,
    // h F32 or F16, b those or BF16, i I32, j I32 or I64, d what can be multiplied: floating-point or quantized.
    const char * types = "";
    char result = '=';  // type of the result: as above, also l I64, 1 and 2 those of sources 1 and 2
    bool is_new = false;  // the result is a tensor of its own, never a view of a source: contiguous
    Objection (*relation)(const ggml_tensor & node) = nullptr;
    Objection (*cpu)(const ggml_tensor & node) = nullptr;  // on CPU devices also
};

// Null: not served.
const OpRow * row_of(uint32_t op);

}  // namespace caravan::server
