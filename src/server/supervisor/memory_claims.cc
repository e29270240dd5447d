#include "server/supervisor/memory_claims.h"

#include <algorithm>

#include "server/ipc/control.h"

namespace caravan::server {
namespace {

constexpr uint64_t max_other_memory = uint64_t{2} << 30;  // bytes of graphs and data for other servers

// Resident bytes of its session's buffers, approximate. Excludes graphs, which a client can make arbitrarily large.
uint64_t touched_by(const WorkerProcess & worker) {
    const uint64_t resident = resident_memory(worker.pid), other = worker.resident_at_begin + worker.other_memory;
    return resident - std::min(resident, other);
}

}  // namespace

std::vector<Holding> holdings(const std::list<WorkerProcess> & workers, const WorkerProcess * without) {
    std::vector<Holding> out;
    for (const WorkerProcess & worker : workers) {
        if (&worker != without && worker.allocated > 0) {
            out.push_back({worker.allocated, touched_by(worker)});
        }
    }
    return out;
}

void reply_to_claim(const std::list<WorkerProcess> & workers, WorkerProcess & worker, const ControlMessage & claim,
                    uint64_t max_memory) {
    worker.other_memory = std::min(claim.memory_free, max_other_memory);
    if (claim.number == 0 && claim.memory_total <= worker.allocated) {
        worker.allocated = claim.memory_total;
        return;
    }
    const std::vector<Holding> others = holdings(workers, &worker);
    const uint64_t available = available_memory(), touched = touched_by(worker);
    const bool is_granted = claim.memory_total <= worker.allocated ||
                            may_allocate(claim.memory_total, touched, available, others);
    if (is_granted) {
        const uint64_t most = available < UINT64_MAX - touched ? available + touched : UINT64_MAX;
        worker.allocated = std::min({claim.memory_total, most, max_memory});
    }
    if (claim.number == 0) {
        return;
    }
    const Holding own{worker.allocated, touched};
    send_control(worker.control.get(), {.kind = ControlMessage::Kind::claim,
                                        .number = claim.number,
                                        .count = is_granted ? 1u : 0u,
                                        .memory_free = unpromised(unpromised(available, others), {&own, 1})});
}

}  // namespace caravan::server
