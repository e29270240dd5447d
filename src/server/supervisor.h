// The server's front: listens, shakes hands, answers what needs no device, and hands each client to a worker process
// of its own. It loads no back-end and touches no tensor, so nothing that a client sends can make it fail.
//
// One thread, one poll loop. No client can hold it up: every socket is non-blocking, and a client that does not
// complete its handshake is dropped after a while.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "net/socket.h"
#include "server/worker.h"

namespace caravan::server {

struct ServerOptions {
    std::string host = "127.0.0.1";
    uint16_t port = net::default_port;
    int max_sessions = 16;
    int max_per_address = 0;   // 0: one less than max_sessions
    seconds idle_limit{600};   // for a session, while clients of other addresses wait; 0: none
    seconds drain{5};          // after SIGTERM, how long sessions may go on; no_limit: until they end
    static constexpr seconds no_limit = seconds::max();
    WorkerOptions worker;
};

// Serves until SIGTERM or SIGINT, then drains. Returns once everything is over; an error means that it could not
// start. Its log has begun (server_log.h).
Result<> run_supervisor(const ServerOptions & options);

}  // namespace caravan::server
