// The worker processes of a server: one loaded spare, and one for each session, with the state that they reported. For the
// supervisor's thread only.
//
// With devices other than CPUs, a session leaves its graphs in shared memory, and the spare worker computes them with zeros
// (graph/warm_up.h), so that the next session finds its kernels loaded.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/line_shares.h"
#include "server/ipc/control.h"
#include "server/supervisor/start_failures.h"
#include "server/supervisor/worker_process.h"
#include "server/supervisor/worker_reports.h"
#include "tunables/supervisor.h"

namespace caravan::server {

class WorkerPool {
public:
    static constexpr size_t max_connections = 16;  // watched connections of one session

    // `start`: starts a worker process.
    WorkerPool(const WorkerOptions & options, std::function<Result<WorkerProcess>()> start)
        : options_(options), start_(std::move(start)) {}

    // Starts a spare worker if the server keeps one and none exists, or if the last one could not be started: clients are
    // refused until one can. After a failure it does nothing until respawn_at().
    void keep_spare();
    // Ends workers that were started for a client's query and have no session in time.
    void end_unused();
    // Replaces the spare worker by a new one: a worker knows only the model files that existed when it started.
    void replace_spare();
    // Stops starting workers. Further exits are not logged.
    void stop() { stopping_ = true; }

    bool empty() const { return workers_.empty(); }
    size_t serving() const;
    // For a client that waits. Null: none has loaded, and one is started unless it was before, as for keep_spare(); or it
    // computes graphs of the last session, and is asked to stop that.
    WorkerProcess * spare();
    std::list<WorkerProcess> & all() { return workers_; }
    // The worker that owns the session or link of `token`; null if there is none or its session has ended.
    WorkerProcess * owner(uint64_t token);
    // Hands a client's socket to `worker`, which must be the spare one and then serves the session. The pool keeps a duplicate
    // of the socket until the connection closes. On an error nothing has changed, and the caller may retry.
    Result<> begin_session(WorkerProcess & worker, ControlMessage message, const std::string & address, int socket);
    // Hands over a connection that presented one of the worker's tokens. `resumes`: it resumes the session, so the pool watches
    // it too. On an error nothing has changed.
    Result<> hand_over(WorkerProcess & worker, const ControlMessage & message, int socket, bool resumes);
    // The client or the network has closed one of worker.connections.
    void connection_closed(WorkerProcess & worker, std::list<UniqueFd>::iterator connection);
    // Ends the session of a client that has sent no command. It no longer counts as serving.
    void end_half_open(WorkerProcess & worker);
    // Queries the spare worker for the memory of a device. False: there is no spare worker, or no such device.
    bool query_memory(uint32_t device);

    // Handles a bounded number of messages from the worker. Calls on_memory_reply for memory replies. True: more may be
    // pending.
    bool receive_messages(WorkerProcess & worker);
    // A signal has stopped or continued the process `pid`, for example from a debugger.
    void record_stop(platform::ProcessId pid, bool is_stopped);
    // The process `pid` has exited. False: it is not one of these workers.
    bool reap(platform::ProcessId pid, const platform::ExitStatus & status);
    void signal_all(platform::Signal signal, bool serving_too);

    // Kills workers that have passed their deadline: while loading, with a pending query, or after their client left or their
    // session ended. They no longer count as serving.
    void kill_hanging();
    // Lets a spare worker compute graphs of the last session, if it is to do that by now.
    void begin_warm_ups();
    TimePoint next_deadline() const;

    const WorkerReports & reports() const { return reports_; }
    const std::vector<ControlMessage> & devices() const { return reports_.devices(); }
    // Why no client can be served: the load error of the last worker. Empty if it has loaded or is loading.
    const std::string & outage() const { return start_failures_.cause(); }
    TimePoint respawn_at() const { return start_failures_.retry_at(); }

    std::function<void(const ControlMessage & reply)> on_memory_reply;
    std::function<void()> on_queries_lost;  // memory queries must be repeated
    std::function<void(WorkerProcess & worker, const ControlMessage & question)> on_comm;  // of a serving worker

private:
    void ensure_spare();
    Result<> send_socket(WorkerProcess & worker, const ControlMessage & message, int socket);
    Result<> hand_over_watched(WorkerProcess & worker, const ControlMessage & message, int socket);
    void prepare(WorkerProcess & worker);
    void keep_graphs(WorkerProcess & worker, uint64_t size);
    void warm_up(WorkerProcess & worker);
    void warm_up_failed(std::string_view how);
    bool check_build(WorkerProcess & worker);
    void on_loading_message(WorkerProcess & worker, const ControlMessage & message);
    void start_failed(std::string cause);
    void retire(WorkerProcess & worker, platform::Signal signal);
    void log_end(const WorkerProcess & worker, const ControlMessage & ended) const;
    void on_session_message(WorkerProcess & worker, const ControlMessage & message);

    const WorkerOptions & options_;
    const std::function<Result<WorkerProcess>()> start_;
    bool stopping_ = false;
    std::list<WorkerProcess> workers_;
    WorkerReports reports_;
    std::string load_error_;  // reported by the worker that is loading
    StartFailures start_failures_;
    UniqueFd last_graphs_;  // memory with the graphs of the last session that has left some; none: no session has
    uint64_t last_graphs_size_ = 0;
    int warm_up_failures_ = 0;
    std::unordered_map<uint64_t, platform::ProcessId> tokens_;  // of sessions and links
    // Limits the initial lines of all sessions, and of those of one address: a client can begin many sessions in a row. Each
    // session may also log one line a second.
    LineShares session_lines_{tunable::all_session_lines, tunable::all_session_lines_rate, tunable::address_session_lines,
                              tunable::address_session_lines_rate};
};

}  // namespace caravan::server
