// Grants the host memory that sessions claim (ipc/machine_memory.h).
#pragma once

#include <cstdint>
#include <list>
#include <vector>

#include "server/ipc/control.h"
#include "server/supervisor/memory_accounts.h"
#include "server/supervisor/worker_process.h"

namespace caravan::server {

// The memory of the sessions, except that of `without`.
std::vector<Holding> holdings(const std::list<WorkerProcess> & workers, const WorkerProcess * without = nullptr);

// Replies to the claim of `worker`, and updates its account. A compromised worker may claim too much: its claims count only up
// to what it could allocate anyway. `max_memory`: limit of a session, bytes.
void reply_to_claim(const std::list<WorkerProcess> & workers, WorkerProcess & worker, const ControlMessage & claim,
                    uint64_t max_memory);

}  // namespace caravan::server
