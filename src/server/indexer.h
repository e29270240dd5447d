// The process that looks through the model files (--model-dir), beside the server and with the lowest priority: a first
// look may take minutes, and workers find what is known so far.
#pragma once

#include "server/worker.h"

namespace caravan::server {

// `line_fd`: from the supervisor; when it closes, this ends. Says in the log what was found. Returns the process's exit
// code.
int run_indexer(int line_fd, const WorkerOptions & options);

}  // namespace caravan::server
