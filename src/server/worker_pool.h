// The worker processes of a server: one that is loaded and waits, those that serve a session each, and what they have
// said. Used by the supervisor's thread only.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/line_shares.h"
#include "server/control.h"
#include "server/machine_memory.h"
#include "server/worker_process.h"

namespace caravan::server {

class WorkerPool {
public:
    static constexpr size_t max_connections = 16;  // of one session, which are watched

    explicit WorkerPool(const WorkerOptions & options) : options_(options) {}

    void set_beyond_loopback(bool is) { beyond_loopback_ = is; }  // the server listens on more than that
    // Starts one to wait, if none does; after a failure not before respawn_at().
    void want_spare();
    // A worker finds those model files only that were there when it started.
    void replace_spare();
    // None is started any more, and none's end is worth a word.
    void stop() { stopping_ = true; }

    bool empty() const { return workers_.empty(); }
    size_t serving() const;
    WorkerProcess * spare();  // null: none is loaded
    std::list<WorkerProcess> & all() { return workers_; }
    // The one that has the session or the link of `token`; null: none, or its session is over.
    WorkerProcess * owner(uint64_t token);
    // Hands a client's socket to `worker`, the spare one, which serves it from now on. A copy of the socket is kept until it
    // closes. Error: nothing has changed, and the next attempt may succeed.
    Result<> give_session(WorkerProcess & worker, ControlMessage message, const std::string & address, int socket);
    // Hands over a connection that came with one of the worker's tokens. `resumes`: it resumes the session, and is watched as
    // well. Error: nothing has changed.
    Result<> give_connection(WorkerProcess & worker, const ControlMessage & message, int socket, bool resumes);
    // One of worker.connections was closed, by the client or the network.
    void connection_closed(WorkerProcess & worker, std::list<UniqueFd>::iterator connection);
    // Asks the spare one for the memory of a device. False: there is no spare one to ask, or no such device.
    bool ask_memory(uint32_t device);

    // Handles messages of the worker, a bounded number. Answers about memory go to on_memory. True: there may be more.
    bool hear(WorkerProcess & worker);
    // `pid` was stopped by a signal, as by a debugger, or goes on.
    void note_stop(pid_t pid, bool is_stopped);
    // `pid` has ended. False: it is none of these.
    bool reap(pid_t pid, int wait_status);
    void signal_all(int signal, bool serving_too);

    // Kills those that hang: while they load, while a question waits, after their client has left or their session has
    // ended. None of them counts as serving any more.
    void kill_hanging();
    TimePoint next_deadline() const;

    // Of the first one that was loaded, and of later ones.
    const std::vector<ControlMessage> & devices() const { return devices_; }
    const std::string & confinement() const { return confinement_; }  // in words
    // Why uploaded weights are not kept; empty: they are, or nobody asked for it. What was kept before may still be read.
    const std::string & cache_problem() const { return cache_problem_; }
    bool cache_is_readable() const { return cache_is_readable_; }
    // Why no client can be served: the last worker that was started could not load. Empty: it could, or is loading.
    const std::string & outage() const { return outage_; }
    TimePoint respawn_at() const { return respawn_at_; }

    std::function<void(const ControlMessage & answer)> on_memory;
    std::function<void()> on_questions_lost;  // who asked for memory must ask again

private:
    static constexpr seconds min_respawn_pause{2}, max_respawn_pause{30};  // doubles with each failure in a row

    Result<> give(WorkerProcess & worker, const ControlMessage & message, int socket);
    Result<> give_watched(WorkerProcess & worker, const ControlMessage & message, int socket);
    void hear_loading(WorkerProcess & worker, const ControlMessage & message);
    void start_failed();
    void retire(WorkerProcess & worker, int signal);
    void hear_serving(WorkerProcess & worker, const ControlMessage & message);
    void answer_claim(WorkerProcess & worker, const ControlMessage & claim);
    static uint64_t touched_by(const WorkerProcess & worker);
    std::vector<Holding> holdings(const WorkerProcess * without = nullptr) const;

    const WorkerOptions & options_;
    bool stopping_ = false, beyond_loopback_ = false;
    std::list<WorkerProcess> workers_;
    std::vector<ControlMessage> devices_;
    std::string start_failure_;  // reported by the worker that is loading
    std::string cache_problem_;  // why weights are not kept, of the last worker that was loaded
    bool cache_is_readable_ = false;
    std::string outage_, confinement_, noted_;
    seconds respawn_pause_ = min_respawn_pause;
    std::unordered_map<uint64_t, pid_t> tokens_;  // of sessions and links
    // What all sessions may log together, and those of one address, besides a line a second each: a client can begin one
    // session after the other.
    LineShares session_lines_{2000, 50, 500, 10};
    TimePoint respawn_at_ = TimePoint::min();
};

}  // namespace caravan::server
