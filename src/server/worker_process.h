// The supervisor's side of the processes that it starts: workers, and one that looks through model files. Each is this
// same program with a hidden option, followed by the number of a descriptor: its end of a line to the supervisor.
#pragma once

#include <sys/types.h>

#include <list>

#include "base/error.h"
#include "base/unique_fd.h"
#include "server/worker.h"

namespace caravan::server {

struct WorkerProcess {
    pid_t pid = -1;
    UniqueFd control;  // non-blocking

    enum class State { loading, spare, serving, retired } state = State::loading;  // retired: told to end, or killed
    TimePoint deadline = no_deadline;  // it hangs if its state is the same by then
    TimePoint stopped_at{};            // by a signal; unset: it runs
    uint64_t session = 0;     // serving: its number
    uint64_t token = 0;       // serving: resumes the session
    // serving: copies of its client's connections, watched for their end. Several while one replaces another.
    std::list<UniqueFd> connections;
    std::string client;       // serving: its peer
    std::string address;      // serving: whose session it counts as
    bool contended = false;   // serving: it knows that others wait for a session
    TimePoint contended_at{};  // serving: when it was asked last to end if idle
    bool told_to_end = false;  // serving: by us, with a signal
    bool said_goodbye = false;  // serving: it has reported the end of its session
    uint32_t lines = 0;         // serving: that it may log at once
    size_t questions = 0;       // asked of it, not answered yet
    size_t invitations = 0;     // tokens that it gave out
    uint64_t allocated = 0;     // serving: of the machine's memory, by its session's buffers
    uint64_t besides = 0;       // serving: of the machine's memory, by its session besides its buffers, about
    uint64_t began_with = 0;    // serving: memory that it had touched before
};

// `beyond_loopback`: the server listens on more than that.
Result<WorkerProcess> start_worker(const WorkerOptions & options, bool beyond_loopback);

struct IndexerProcess {
    pid_t pid = -1;
    UniqueFd line;  // nothing is sent: that it closes tells the process that the supervisor has ended
};

Result<IndexerProcess> start_indexer(const WorkerOptions & options);  // the files' part of them

inline constexpr const char * worker_option = "--worker-control-fd";
inline constexpr const char * local_links_option = "--links-of-local-clients";
inline constexpr const char * indexer_option = "--indexer-line-fd";

// "exit code 3", "signal 11 (Segmentation fault)".
std::string describe_exit(int wait_status);

}  // namespace caravan::server
