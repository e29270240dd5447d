// The supervisor, the main process of the server: listens, performs handshakes, answers queries that need no device, and hands
// each client to a worker process of its own. It loads no back-end and parses no tensor or graph.
//
// One thread, one poll loop. Every socket is non-blocking, and a client that does not complete its handshake in time is
// dropped (tunable::handshake_timeout), so no client can block the others.
#pragma once

#include "base/error.h"
#include "server/supervisor/server_options.h"
#include "server/supervisor/worker_program.h"
#include "tunables/net.h"

namespace caravan::server {

// Serves until SIGTERM or SIGINT, drains, and returns when all workers have exited. Returns an error if the server cannot
// start. The caller has called begin_server_log().
Result<> run_supervisor(const ServerOptions & options, const WorkerProgram & program);

}  // namespace caravan::server
