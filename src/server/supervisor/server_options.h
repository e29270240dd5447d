#pragma once

#include <cstdint>
#include <string>

#include "net/socket.h"
#include "server/ipc/worker_options.h"

namespace caravan::server {

struct ServerOptions {
    std::string host = "127.0.0.1";
    uint16_t port = net::default_port;
    int max_sessions = 16;
    int max_per_address = 0;   // 0: one less than max_sessions
    seconds idle_limit{600};   // of a session while clients of other addresses wait; 0: no limit
    seconds drain{5};          // time that sessions have to end after SIGTERM; no_limit: no deadline
    bool stock_comm = false;   // let sessions of stock clients add up tensors with another server
    static constexpr seconds no_limit = seconds::max();
    WorkerOptions worker;
};

}  // namespace caravan::server
