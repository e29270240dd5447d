// The supervisor, the main process of the server: listens, performs handshakes, answers queries that need no device, and hands
// each client to a worker process of its own. It loads no back-end and parses no tensor or graph.
//
// One thread, one poll loop. Every socket is non-blocking, and a client that does not complete its handshake in time is
// dropped (FrontDoor::patience), so no client can block the others.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "net/socket.h"
#include "server/ipc/worker_options.h"
#include "server/supervisor/worker_program.h"

namespace caravan::server {

struct ServerOptions {
    std::string host = "127.0.0.1";
    uint16_t port = net::default_port;
    int max_sessions = 16;
    int max_per_address = 0;   // 0: one less than max_sessions
    seconds idle_limit{600};   // of a session while clients of other addresses wait; 0: no limit
    seconds drain{5};          // time that sessions have to end after SIGTERM; no_limit: no deadline
    static constexpr seconds no_limit = seconds::max();
    WorkerOptions worker;
};

// Serves until SIGTERM or SIGINT, drains, and returns when all workers have exited. Returns an error if the server cannot
// start. The caller has called begin_server_log().
Result<> run_supervisor(const ServerOptions & options, const WorkerProgram & program);

}  // namespace caravan::server
