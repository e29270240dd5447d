// The options of a worker or indexer process, which the supervisor passes on its command line.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "cache/weight_options.h"
#include "net/networks.h"

namespace caravan::server {

struct WorkerOptions {
    static constexpr uint64_t no_limit = UINT64_MAX;

    std::vector<std::string> devices;
    int threads = 1;
    seconds session_grace{60};           // time to resume a session after its connection broke; 0: none
    std::optional<net::Networks> links;  // networks of permitted links; unset: of_interfaces() or loopback()
    bool local_links = false;            // also permit loopback to sessions of clients on this machine
    uint64_t max_memory = no_limit;      // bytes per session
    cache::WeightOptions weights;
    bool confined = true;                // see confine/confinement.h

    // Used by the supervisor only.
    seconds load_timeout{300};  // of the back-ends: drivers may compile kernels first
    size_t open_files = 0;      // limit of a worker (RLIMIT_NOFILE); 0: the server's limit
    bool keep_spare = true;     // a worker that has loaded waits for the next session
    bool keep_graphs = true;    // with GPUs: those of each session, for the spare worker; takes an open file for each session
};

// The arguments that transfer `options`, except those of the supervisor.
std::vector<std::string> to_arguments(const WorkerOptions & options);
// The inverse. Errc::invalid_argument if an argument is unknown or its value is invalid.
Result<WorkerOptions> from_arguments(std::span<const std::string> arguments);

// The first argument of caravan-worker. serve and index: the next one is the number of a descriptor, the process's end of a
// socket pair to the supervisor, and to_arguments() follow.
inline constexpr const char * serve_command = "serve";                // one session
inline constexpr const char * index_command = "index";                // the model files
inline constexpr const char * list_devices_command = "list-devices";  // prints the devices of this machine
inline constexpr const char * ggml_version_command = "ggml-version";  // prints the version of ggml that it runs with

}  // namespace caravan::server
