// The options of a worker or indexer process, which the supervisor passes on its command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cache/weight_options.h"
#include "net/networks.h"

namespace caravan::server {

struct WorkerOptions {
    std::vector<std::string> devices;
    int threads = 1;
    seconds load_timeout{300};   // of the back-ends: drivers may compile kernels first
    seconds session_grace{60};  // time to resume a session after its connection broke; 0: none
    std::optional<net::Networks> links;  // networks of permitted links; unset: of_interfaces() or loopback()
    bool local_links = false;            // also permit loopback to sessions of clients on this machine
    static constexpr uint64_t no_limit = UINT64_MAX;
    uint64_t max_memory = no_limit;  // bytes per session
    cache::WeightOptions weights;
    size_t open_files = 0;          // limit of a worker (RLIMIT_NOFILE); 0: the server's limit
    bool confined = true;           // see confinement.h
    bool keep_backend_log = false;  // print ggml's log while it loads
};

}  // namespace caravan::server
