// Verifies that the ggml of this process has the layouts that abi/ggml_abi.h declares.
#pragma once

#include "abi/ggml_abi.h"
#include "base/error.h"

namespace caravan::abi {

// Compares the version of ggml with the one that Caravan was built for, builds a small graph through the public API and
// reads it through the declared layouts. Errc::unsupported if they differ. Call it before any other use of ggml_abi.h.
Result<> check();

// Returns the slot of `tensor` in the hash set of a graph, which also indexes use_counts; SIZE_MAX if it is absent. ggml
// hashes the address without its low 4 bits and probes linearly.
size_t find_slot(const ::ggml_hash_set & set, const ::ggml_tensor * tensor);

// Inserts `tensor` if it is absent and returns its slot; SIZE_MAX if the set is full.
size_t insert_slot(::ggml_hash_set & set, ::ggml_tensor * tensor);

}  // namespace caravan::abi
