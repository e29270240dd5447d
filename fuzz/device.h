// The CPU device of this machine, with limits that keep each input fast: buffers of at most 1 MiB, 8 MiB per run, and a
// bound on the work of computed graphs. The linker wraps the ggml functions that enforce these limits; all others are the
// real ones.
#pragma once

#include "server/graph/devices.h"

namespace caravan::fuzz {

// LLVMFuzzerInitialize opens it and silences the log.
server::Devices & cpu();

// Call it before each input. If `computes` is false, graphs are built and checked but not computed, and computing succeeds
// at once. A failed assertion in a kernel, which ends a worker process, fails the computation here and leaks its memory.
void begin_run(bool computes);

}  // namespace caravan::fuzz
