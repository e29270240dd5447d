// The process that indexes the model files (--model-dir), with the lowest priority: the first run may take minutes. Workers use
// the digests that exist so far.
#pragma once

#include "server/ipc/worker_options.h"

namespace caravan::server {

// Exits when the supervisor's end of `line_fd` closes. Logs its result. Returns the exit code of the process.
int run_indexer(int line_fd, const WorkerOptions & options);

}  // namespace caravan::server
