// Ends an idle session while a client of another address waits (--idle-limit).
//
// The supervisor does not know which sessions are idle, so it asks as many as there are waiting clients, and others half a
// second later. Only an address with more sessions than the waiting client's loses one, so clients cannot evict each other in
// turns.
#pragma once

#include "server/supervisor/session_slots.h"
#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class Contention {
public:
    Contention(seconds idle_limit, WorkerPool & workers, WaitingClients & clients, const SessionSlots & slots)
        : idle_limit_(idle_limit), workers_(workers), clients_(clients), slots_(slots) {}

    // Asks workers to end their sessions if idle, or withdraws that, as the queue requires now.
    void update(TimePoint now);
    TimePoint next_update() const { return next_update_; }

private:
    std::vector<const WaitingClient *> waiting_long_enough(TimePoint now);
    void set_idle_limit(WorkerProcess & worker, bool contended) const;

    const seconds idle_limit_;
    WorkerPool & workers_;
    WaitingClients & clients_;
    const SessionSlots & slots_;
    TimePoint next_update_ = no_deadline, last_asked_{};
};

}  // namespace caravan::server
