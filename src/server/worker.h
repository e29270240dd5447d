// A worker process: loads ggml's back-ends, then serves one session and ends. Its memory is the session's memory, so
// its end, however it comes, gives everything back and touches nobody else.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cache/weights.h"
#include "net/networks.h"
#include "server/memory_budget.h"

namespace caravan::server {

struct WorkerOptions {
    std::vector<std::string> devices;
    int threads = 1;
    seconds load_timeout{300};   // for the back-ends: drivers may compile kernels first
    seconds session_grace{60};  // for a session whose connection broke; 0: it ends
    std::optional<net::Networks> links;  // where sessions may connect to; none: of_interfaces() or loopback()
    bool local_links = false;            // and to loopback for clients on this machine
    uint64_t max_memory = MemoryBudget::no_limit;  // bytes, of a session
    cache::WeightOptions weights;
    size_t open_files = 0;          // that a worker may have; 0: as many as the server
    bool confined = true;           // as confinement.h has it
    bool keep_backend_log = false;  // show ggml's own lines while it loads
};

// `control_fd`: the worker's end of the line to the supervisor. Returns the process's exit code.
int run_worker(int control_fd, const WorkerOptions & options);

}  // namespace caravan::server
