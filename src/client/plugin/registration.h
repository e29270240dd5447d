// The plug-in's position in ggml's registry. ggml loads the plug-in of GGML_BACKEND_PATH last, but uses the first "RPC"
// back-end, and its scheduler requires the CPU's device to be the last.
//
// Threads: both run in ggml_backend_init(), while ggml changes its registry without a lock. ggml loads all plug-ins again
// whenever a program requests it, so both run at every load.
#pragma once

#include "abi/ggml_abi.h"

namespace caravan::client {

// Unloads every other "RPC" back-end if GGML_BACKEND_PATH names this plug-in.
void unload_other_rpc(ggml_backend_reg_t ours);

// If `ours` has devices (those of GGML_RPC_SERVERS), registers it and then registers again each CPU back-end that preceded
// it. The CPU back-end's library stays loaded, so a program's pointers into it stay valid.
void register_before_cpu(ggml_backend_reg_t ours);

}  // namespace caravan::client
