// What one node of a peer's graph must be before a device is asked to compute it. ggml's kernels believe that a node
// was made by ggml's own constructors: that its result has the shape, type and strides that its sources and parameters
// give. They index with them, some without looking. Here is one row for each op (op_table.cc) that says so again.
//
// Checked once, when a graph is built: the sources that must be there; types; the relation of the shapes of sources,
// result and parameters; parameters that are sizes, counts, offsets or names of sub-operations; strides, where
// constructors demand something of them, and on CPU devices where a kernel counts elements and does not look at them.
// Left to the device's supports_op, and to assertions that end the session's own process: which combinations of types
// a kernel has.
//
// Contents are a different matter. Row numbers in index tensors are looked at by the CPU's kernels of GET_ROWS,
// GET_ROWS_BACK, SET_ROWS and ADD_ID (a wrong one ends the process), not by those of MUL_MAT_ID and SSM_SCAN, which go
// where it leads (so ggml 0.27 behaves). An index that the client wrote itself, in host memory, is checked before each
// launch. One that the graph computes cannot be: there, and for NaNs that a sort stumbles over, nothing but the
// session's process and its confinement protects others.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "ggml.h"

namespace caravan::server {

// Does the table name the ops as this process's ggml does? What it does not know is refused, so a newer ggml loses ops
// but not their checks.
Result<> check_op_table();

// Ops that a peer may send: the table has a row for it. Not: those that carry a function pointer.
bool is_served(uint32_t op);

// `node` and its sources have been checked one by one (tensor_check.h). `for_cpu`: its device is a CPU.
Result<> check_op(const ggml_tensor & node, bool for_cpu);

// A source whose elements are row numbers of something: 0 <= each < limit.
struct Indices {
    const ggml_tensor * tensor;
    int64_t limit;

    bool operator==(const Indices &) const = default;
};
std::optional<Indices> indices_of(const ggml_tensor & node);

// Those of these nodes, in the order of computation, whose indices lie in host memory and are written by none of them.
std::vector<Indices> fixed_indices(std::span<ggml_tensor * const> nodes);

// Looks at the elements.
Result<> check_indices(std::span<const Indices> indices);

}  // namespace caravan::server
