// The connections without a session, from their acceptance to the begin of a session: handshakes, queries, the queue. Never
// blocks.
#pragma once

#include <list>
#include <string_view>

#include "net/socket.h"
#include "server/supervisor/admission.h"
#include "server/supervisor/contention.h"
#include "server/supervisor/half_open.h"
#include "server/supervisor/query_service.h"
#include "server/supervisor/server_options.h"
#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class Reception {
public:
    // `capacity`: of WaitingClients. Both references must outlive this.
    Reception(const ServerOptions & options, WorkerPool & workers, size_t capacity);

    // Accepts a bounded number of connections. Not to be called before accept_again_at(), which is set after an error.
    void accept_all(net::Listener & listener);
    TimePoint accept_again_at() const { return accept_again_at_; }

    std::list<WaitingClient> & clients() { return clients_.all(); }
    // Reads a bounded amount of what the client has sent, and serves it if possible now, except new sessions.
    void advance(WaitingClient & client);
    // The same for a client in the queue, which owes the confirmation of its place.
    void receive_confirmation(WaitingClient & client);
    // The client has closed its connection.
    void drop(WaitingClient & client) { clients_.drop(client); }
    // Serves all clients, once in each round: begins sessions, drops clients that are late.
    void serve_all();
    // When serve_all() is to be called next, unless something happens before.
    TimePoint next_deadline() const;

    // From now on only connections of existing sessions are accepted.
    void stop() { stopping_ = true; }
    uint64_t sessions_begun() const { return admission_.sessions_begun(); }

private:
    std::string_view outage() const;
    void refuse(WaitingClient & client);
    void drop(WaitingClient & client, const Error & error);
    void serve(WaitingClient & client);
    void report_dropped();

    const ServerOptions & options_;
    WorkerPool & workers_;
    WaitingClients clients_;
    QueryService queries_;
    Admission admission_;
    Contention contention_;
    HalfOpenSessions half_open_;
    TimePoint accept_again_at_ = TimePoint::min(), report_again_at_ = TimePoint::min();
    size_t unreported_ = 0;  // dropped connections since the last log line about them
    bool stopping_ = false;
};

}  // namespace caravan::server
