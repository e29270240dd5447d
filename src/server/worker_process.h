// The supervisor's side of one worker process.
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "server/worker.h"

namespace caravan::server {

struct WorkerProcess {
    pid_t pid = -1;
    UniqueFd control;  // non-blocking

    enum class State { loading, spare, serving } state = State::loading;
    uint64_t session = 0;     // serving: its number
    std::string client;       // serving: its peer
    bool said_goodbye = false;  // serving: it has reported the end of its session
};

// Starts this same program with the hidden option that makes it a worker.
Result<WorkerProcess> start_worker(const WorkerOptions & options);

// The option, followed by the number of the control descriptor.
inline constexpr const char * worker_option = "--worker-control-fd";

// "exit code 3", "signal 11 (Segmentation fault)".
std::string describe_exit(int wait_status);

}  // namespace caravan::server
