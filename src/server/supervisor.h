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
    std::chrono::seconds drain{5};  // after SIGTERM, how long sessions may go on
    WorkerOptions worker;
};

// Serves until SIGTERM or SIGINT, then drains. Returns once everything is over; an error means that it could not
// start. Its log has begun (server_log.h).
Result<> run_supervisor(const ServerOptions & options);

}  // namespace caravan::server
