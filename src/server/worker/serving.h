// The session of a worker process.
#pragma once

#include "cache/weights.h"
#include "server/graph/devices.h"
#include "server/ipc/control.h"
#include "server/ipc/worker_options.h"

namespace caravan::server {

// Serves the session that the supervisor has `given`, and reports its end over `control`. Writes its graphs for later workers
// to `graphs` (write_graphs()), which may be none. May end the process instead of returning. The process is to exit
// afterwards, since threads of links may remain.
void serve(ReceivedControl given, int control, const WorkerOptions & options, Devices & devices, cache::Weights & weights,
           const UniqueFd & graphs);

}  // namespace caravan::server
