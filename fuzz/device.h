// The CPU device of this machine, with limits that keep inputs quick and small: buffers of 1 MiB, 8 MiB in one run, and
// of graphs only those that are soon computed, or none. (The calls into ggml that this needs to change are wrapped by
// the linker; all others are the real ones.)
#pragma once

#include "server/devices.h"

namespace caravan::fuzz {

// Opened, and the log silent, before a target's first input.
server::Devices & cpu();

// Before each input. An assertion of a kernel's ends a worker, which is what it is for; here it fails the computation, and
// leaks what that had taken. Without `computes`, graphs are built and checked, and then taken as computed.
void begin_run(bool computes);

}  // namespace caravan::fuzz
