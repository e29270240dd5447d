// A worker process: loads ggml's back-ends, serves one session and exits. A session's memory is its worker's memory, so the
// exit or crash of the worker frees all of it and affects no other session.
#pragma once

#include "server/ipc/worker_options.h"

namespace caravan::server {

// `control_fd`: the worker's end of the control socket (control.h). Returns the exit code of the process.
int run_worker(int control_fd, const WorkerOptions & options);

}  // namespace caravan::server
