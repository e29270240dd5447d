// Does the ggml of this process have the layouts that abi/ggml_abi.h declares?
#pragma once

#include "abi/ggml_abi.h"
#include "base/error.h"

namespace caravan::abi {

// Compares ggml's version with the one that this was built for and reads a small graph, made through the public API,
// through our own layouts. Call it before any other use of ggml_abi.h.
Result<> check();

// The slot of `tensor` in the graph's table of use counts, or SIZE_MAX if it is not there. ggml hashes the address
// without its low 4 bits and probes linearly.
size_t find_slot(const ::ggml_hash_set & set, const ::ggml_tensor * tensor);

// The slot of `tensor`, taken for it if it was not there. SIZE_MAX if the table is full.
size_t insert_slot(::ggml_hash_set & set, ::ggml_tensor * tensor);

}  // namespace caravan::abi
