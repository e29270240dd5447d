// Verifies that the ggml of this process has the layouts that abi/ggml_abi.h declares.
#pragma once

#include "abi/ggml_abi.h"
#include "base/error.h"

namespace caravan::abi {

// Compares the version of ggml with the one that Caravan was built for, builds a small graph through the public API and
// reads it through the declared layouts. Errc::unsupported if they differ. Call it before any other use of ggml_abi.h.
Result<> check();

// As check(), in a plug-in: also accepts versions that number ops equally, make the same nodes except for ops without
// is_same_op(), and differ only in what host_buffer_type.h covers. Not thread-safe.
Result<> check_host();

// False if the ggml of the program gives the op other parameters or sources than the one that Caravan was built for. A server
// must not compute such a node.
bool is_same_op(ggml_op op);

// ggml's GGML_BACKEND_API_VERSION: what the last successful check has found; before, that of the ggml Caravan was built for.
int host_api_version();

// Returns the slot of `tensor` in the hash set of a graph, which also indexes use_counts; SIZE_MAX if it is absent. ggml
// hashes the address without its low 4 bits and probes linearly.
size_t find_slot(const ::ggml_hash_set & set, const ::ggml_tensor * tensor);

// Inserts `tensor` if it is absent and returns its slot; SIZE_MAX if the set is full.
size_t insert_slot(::ggml_hash_set & set, ::ggml_tensor * tensor);

}  // namespace caravan::abi
