// A worker process: loads ggml's back-ends, serves one session and exits. A session's memory is its worker's memory, so the
// exit or crash of the worker frees all of it and affects no other session.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cache/weights.h"
#include "net/networks.h"
#include "server/session/memory_budget.h"

namespace caravan::server {

struct WorkerOptions {
    std::vector<std::string> devices;
    int threads = 1;
    seconds load_timeout{300};   // of the back-ends: drivers may compile kernels first
    seconds session_grace{60};  // time to resume a session after its connection broke; 0: none
    std::optional<net::Networks> links;  // networks of permitted links; unset: of_interfaces() or loopback()
    bool local_links = false;            // also permit loopback to sessions of clients on this machine
    uint64_t max_memory = MemoryBudget::no_limit;  // bytes per session
    cache::WeightOptions weights;
    size_t open_files = 0;          // limit of a worker (RLIMIT_NOFILE); 0: the server's limit
    bool confined = true;           // see confinement.h
    bool keep_backend_log = false;  // print ggml's log while it loads
};

// `control_fd`: the worker's end of the control socket (control.h). Returns the exit code of the process.
int run_worker(int control_fd, const WorkerOptions & options);

}  // namespace caravan::server
