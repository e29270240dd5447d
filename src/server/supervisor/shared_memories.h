// Makes and opens the memory through which sessions of several servers of this machine exchange data. A compromised worker gets
// nothing but memory that was made for it, and memory whose secret it knows.
#pragma once

#include "server/ipc/control.h"
#include "server/supervisor/worker_process.h"

namespace caravan::server {

// Serves share, open_shared and unshare of a serving worker. A reply that its channel has no room for is dropped.
void serve_shared_memory(WorkerProcess & worker, const ControlMessage & message);

}  // namespace caravan::server
