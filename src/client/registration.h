// The plug-in's place among the back-ends in ggml's registry. GGML_BACKEND_PATH names the plug-in that ggml loads last,
// which is too late for two things: ggml uses the first "RPC" back-end, and its scheduler requires the CPU's device to be
// the last.
//
// Both run in ggml_backend_init(), within ggml's own change of its registry, which has no lock. ggml loads all plug-ins
// again whenever a program asks, so both run at every load.
#pragma once

#include "abi/ggml_abi.h"

namespace caravan::client {

// Loaded by GGML_BACKEND_PATH, removes every other "RPC" back-end.
void displace_other_rpc(ggml_backend_reg_t ours);

// Registers `ours`, and then each CPU back-end that was registered before it anew, if `ours` has devices (those of
// GGML_RPC_SERVERS). The CPU back-end's library stays loaded, so what a program has of it stays valid.
void register_before_cpu(ggml_backend_reg_t ours);

}  // namespace caravan::client
