// Half-open sessions: their client has sent no command yet, and may never do so. They end while another client that is known to
// be alive waits for a session. For the supervisor's thread.
//
// That client has just confirmed its place in the queue (wire::feature_confirm). A session loses its place to one of its own
// address, or of an address with fewer sessions. Its client, if it was only slow, connects again.
#pragma once

#include <string>

#include "server/supervisor/session_slots.h"
#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class HalfOpenSessions {
public:
    HalfOpenSessions(WorkerPool & workers, WaitingClients & clients, const SessionSlots & slots)
        : workers_(workers), clients_(clients), slots_(slots) {}

    // Ends one overdue session for each waiting client that needs its place.
    void update(TimePoint now);
    TimePoint next_update() const { return next_update_; }
    // Whether the address has an overdue session: its clients that are known to be alive then precede its others.
    static bool has_overdue(WorkerPool & workers, const std::string & address, TimePoint now);

private:
    WorkerProcess * find(const WaitingClient & client, TimePoint now);

    WorkerPool & workers_;
    WaitingClients & clients_;
    const SessionSlots & slots_;
    TimePoint next_update_ = no_deadline;
};

}  // namespace caravan::server
