// Starts programs, with the signals that they block. For this module only.
#pragma once

#include <signal.h>

#include "platform/spawn.h"

namespace caravan::platform {

// As spawn(), with `blocked` in place of the signals that this process blocks, unless the command resets them.
Result<ProcessId> spawn_with(const Command & command, const sigset_t & blocked);

}  // namespace caravan::platform
