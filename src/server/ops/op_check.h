// Checks each node of a client's graph before a device computes it. ggml's kernels assume that ggml's constructors made the
// node, so that the shape, type and strides of its result follow from its sources and parameters. Kernels index with these
// values, some of them without a check. op_table.cc restates the constructors' conditions, one row for each op.
//
// A graph is checked once, when it is built: the presence of required sources; types; the relation between the shapes of
// sources and result and the parameters; parameters that are sizes, counts, offsets or sub-operations; strides, where a
// constructor constrains them and, on CPU devices, where a kernel ignores them. Not checked here: which combinations of
// types a kernel implements. The device's supports_op and assertions in ggml cover them; an assertion ends the session's
// process only.
//
// Contents of index tensors: in ggml 0.27 the CPU kernels of GET_ROWS, GET_ROWS_BACK, SET_ROWS and ADD_ID assert that row
// numbers are in range; those of MUL_MAT_ID and SSM_SCAN do not. An index that the client wrote to host memory is checked
// before each launch. An index that the graph computes cannot be checked, and neither can NaNs in a sort; there only the
// process and its confinement protect other sessions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "ggml.h"

namespace caravan::server {

// Errc::unsupported if the table's op names differ from those of the loaded ggml. Unknown ops are refused, so a newer ggml
// loses ops but no checks.
Result<> check_op_table();

// True if clients may send the op, that is, if the table has a row for it. Ops that carry function pointers have none.
bool is_served(uint32_t op);

// Checks `node` against its row. `node` and its sources must have passed tensor_check.h. `for_cpu`: the device uses the CPU's
// kernels. Errc::invalid_argument or Errc::unsupported.
Result<> check_op(const ggml_tensor & node, bool for_cpu);

// A source whose elements are row numbers, each in [0, limit).
struct Indices {
    const ggml_tensor * tensor;
    int64_t limit;

    bool operator==(const Indices &) const = default;
};
std::optional<Indices> indices_of(const ggml_tensor & node);

// The index tensors of `nodes` that lie in host memory and that no node writes.
std::vector<Indices> fixed_indices(std::span<ggml_tensor * const> nodes);

// Errc::invalid_argument if an element is out of range.
Result<> check_indices(std::span<const Indices> indices);

}  // namespace caravan::server
