// All-reduce over back-ends, which ggml's meta back-end requests for tensor parallelism (-sm tensor). The functions have the
// types of ggml-backend.h: ggml_backend_comm_init_t and the two that follow it.
#pragma once

#include <cstddef>

#include "ggml-backend.h"

namespace caravan::client {

// A context for these back-ends. Null if one of them is not ours, or its server cannot take part: ggml then copies
// tensors between the back-ends. Logs the reason.
void * comm_init(ggml_backend_t * backends, size_t n_backends);
void comm_free(void * context);
// Replaces each tensor by the sum of all; `tensors` has one for each back-end. Returns at once. False if ggml must do it.
bool comm_allreduce_tensor(void * context, ggml_tensor ** tensors);

}  // namespace caravan::client
