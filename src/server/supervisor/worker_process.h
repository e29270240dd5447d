// The child processes of the supervisor: workers, and the indexer of model files. Each executes caravan-worker, and inherits
// its end of a socket pair to the supervisor.
#pragma once

#include <list>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "platform/process_control.h"
#include "platform/unique_fd.h"
#include "server/ipc/worker_options.h"

namespace caravan::server {

class WorkerProgram;

struct WorkerProcess {
    platform::ProcessId pid = -1;
    UniqueFd control;  // non-blocking
    bool awaits_build = false;  // its first message, the build of its program, has not arrived

    enum class State { loading, spare, serving, retired } state = State::loading;  // retired: asked to exit, or killed
    TimePoint deadline = no_deadline;  // it hangs if its state has not changed by then
    TimePoint stopped_at{};            // by a signal; unset: not stopped
    uint64_t session = 0;     // serving: its number
    uint64_t token = 0;       // serving: resumes the session
    // serving: duplicates of its client's connections, watched for their close. Several while one replaces another.
    std::list<UniqueFd> connections;
    std::string client;       // serving: address and port of its peer
    std::string address;      // serving: the address whose quota it counts against
    bool has_begun = false;   // serving: its client has sent a command
    bool idle_limit_sent = false;   // serving: it was notified that other clients wait
    TimePoint asked_to_end_at{};  // serving: when it was last asked to end if idle
    bool stop_requested = false;  // serving: the supervisor sent it a signal to end
    bool end_reported = false;  // serving: it has reported the end of its session
    uint32_t lines = 0;         // serving: its initial allowance of log lines
    size_t pending_queries = 0;       // pending queries to it
    UniqueFd graphs{};          // memory to which it writes the graphs of its session; none: it has only CPU devices
    TimePoint leave_at = no_deadline;    // spare: when it ends unless it gets a session
    TimePoint warm_up_at = no_deadline;  // spare: when it is to compute graphs of the last session
    uint32_t warm_ups = 0;      // spare: number of the last request to compute graphs of the last session
    bool is_warming_up = false, asked_to_stop = false;  // spare: it has not replied; it was asked to stop early
    size_t invitations = 0;     // tokens that it registered for links
    // serving: memory of its session that the session of another server has not opened yet. How many it has had made in total.
    std::vector<UniqueFd> shared_memories{};
    size_t memories_made = 0;
    uint64_t allocated = 0;     // serving: bytes of host memory in its session's buffers
    uint64_t other_memory = 0;       // serving: bytes of other host memory of its session, approximate
    uint64_t resident_at_begin = 0;    // serving: resident bytes when its session began
    TimePoint began_at{};       // serving: when its session began
};

// `beyond_loopback`: the server listens on other addresses than loopback.
Result<WorkerProcess> start_worker(const WorkerProgram & program, WorkerOptions options, bool beyond_loopback);

struct IndexerProcess {
    platform::ProcessId pid = -1;
    UniqueFd control;  // carries no data: the process exits when it closes
};

Result<IndexerProcess> start_indexer(const WorkerProgram & program, const WorkerOptions & options);

}  // namespace caravan::server
