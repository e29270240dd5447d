// What a server prints when it is ready.
#pragma once

#include <span>
#include <string>

#include "net/socket.h"
#include "server/supervisor/server_options.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

// Lines, of which programs read "endpoint" and the last one, "sessions". `workers`: the first one is loaded.
std::string banner(const ServerOptions & options, std::span<const net::Listener> listeners, const WorkerPool & workers);

// Is there a device that computes with threads of this machine's processors?
bool lends_cpu(const WorkerPool & workers);

}  // namespace caravan::server
