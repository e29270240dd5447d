// Limits that a process sets for itself, irreversibly. Errc::unsupported if the system has none.
#pragma once

#include "base/error.h"

namespace caravan::platform {

// No program that this process executes has more rights than it (no_new_privs).
Result<> forbid_new_privileges();

// Other processes of the user cannot trace this one or read its memory.
Result<> forbid_tracing();

}  // namespace caravan::platform
