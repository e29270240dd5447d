// Hands clients over to workers: those in the queue for a session, and those that present a token of a session or link.
#pragma once

#include "server/supervisor/server_options.h"
#include "server/supervisor/session_slots.h"
#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class Admission {
public:
    // All arguments must outlive this.
    Admission(const ServerOptions & options, WorkerPool & workers, WaitingClients & clients)
        : options_(options),
          workers_(workers),
          clients_(clients),
          slots_(static_cast<size_t>(options.max_sessions), static_cast<size_t>(options.max_per_address)) {}

    // Begins sessions for waiting clients, and sends the others their position in the queue.
    void serve_queue();
    // Hands over a connection that presented a token: from another server that opens a link with a session, or from a peer that
    // resumes a link or a session. Keeps it while its session waits for a worker, and drops it if there is no such session.
    void hand_over_by_token(WaitingClient & client);

    const SessionSlots & slots() const { return slots_; }
    uint64_t sessions_begun() const { return next_session_ - 1; }
    TimePoint retry_at() const { return retry_at_; }

private:
    bool begin_session(WaitingClient & client);
    void send_position(WaitingClient & client, uint32_t position, SessionSlots::Verdict verdict);
    void warn_of_shared_cores();

    const ServerOptions & options_;
    WorkerPool & workers_;
    WaitingClients & clients_;
    SessionSlots slots_;
    uint64_t next_session_ = 1;
    TimePoint retry_at_ = TimePoint::min();  // after a client could not be handed over
    bool failure_is_logged_ = false;
    bool cores_are_logged_ = false;
};

}  // namespace caravan::server
