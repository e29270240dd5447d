// How many sources each of ggml's ops cannot do without: back-ends take them for granted, so a peer's node must have
// them before a back-end is asked about it.
#pragma once

#include "ggml.h"

namespace caravan::server {

// The number of leading sources that must be there; -1 for an op that is not served: it carries a function pointer, or
// ggml has added it since this table was written.
int required_sources(ggml_op op);

}  // namespace caravan::server
