#include "server/supervisor/worker_pool.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "platform/socket.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/memory_claims.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

using platform::Signal;

bool is_spare(const WorkerProcess & worker) {
    return worker.state == WorkerProcess::State::loading || worker.state == WorkerProcess::State::spare;
}

}  // namespace

void WorkerPool::keep_spare() {
    if (options_.keep_spare || !outage().empty()) {
        ensure_spare();
    }
}

void WorkerPool::ensure_spare() {
    if (std::ranges::any_of(workers_, is_spare) || stopping_ || Clock::now() < start_failures_.retry_at()) {
        return;
    }
    auto worker = start_();
    if (!worker) {
        start_failed(worker.error().text);
        return;
    }
    load_error_.clear();
    worker->deadline = Clock::now() + options_.load_timeout;
    workers_.push_back(std::move(*worker));
}

void WorkerPool::replace_spare() {
    for (WorkerProcess & worker : workers_) {
        if (is_spare(worker)) {
            retire(worker, Signal::terminate);
        }
    }
    on_queries_lost();
    keep_spare();
}

void WorkerPool::end_unused() {
    for (WorkerProcess & worker : workers_) {
        if (worker.state == WorkerProcess::State::spare && worker.pending_queries == 0 && worker.leave_at <= Clock::now()) {
            log_debug("worker process {} ends: no session began within {} s", worker.pid,
                      tunable::unused_worker_lifetime.count());
            retire(worker, Signal::terminate);
        }
    }
}

void WorkerPool::retire(WorkerProcess & worker, Signal signal) {
    worker.state = WorkerProcess::State::retired;
    worker.deadline = signal == Signal::kill ? no_deadline : Clock::now() + tunable::worker_exit_timeout;
    worker.connections.clear();
    platform::send_signal(worker.pid, signal);
}

size_t WorkerPool::serving() const {
    return static_cast<size_t>(std::ranges::count(workers_, WorkerProcess::State::serving, &WorkerProcess::state));
}

WorkerProcess * WorkerPool::spare() {
    const auto found = std::ranges::find(workers_, WorkerProcess::State::spare, &WorkerProcess::state);
    if (found == workers_.end()) {
        ensure_spare();
        return nullptr;
    }
    if (found->is_warming_up) {
        if (!found->asked_to_stop &&
            send_control(found->control.get(), {.kind = ControlMessage::Kind::warm, .number = found->warm_ups})) {
            found->asked_to_stop = true;
            found->deadline = std::min(found->deadline, Clock::now() + tunable::warm_up_stop_timeout);
        }
        return nullptr;
    }
    return &*found;
}

WorkerProcess * WorkerPool::owner(uint64_t token) {
    const auto pid = tokens_.find(token);
    const auto worker = pid == tokens_.end() ? workers_.end() : std::ranges::find(workers_, pid->second, &WorkerProcess::pid);
    const bool is_there =
        worker != workers_.end() && worker->control && worker->state != WorkerProcess::State::retired && !worker->end_reported;
    return is_there ? &*worker : nullptr;
}

Result<> WorkerPool::begin_session(WorkerProcess & worker, ControlMessage message, const std::string & address, int socket) {
    message.count = session_lines_.take(address, tunable::session_line_burst, Clock::now());
    if (auto sent = hand_over_watched(worker, message, socket); !sent) {
        session_lines_.give_back(address, message.count);
        return sent;
    }
    if (message.token != 0) {
        tokens_[message.token] = worker.pid;
    }
    if (std::exchange(worker.pending_queries, 0) > 0) {
        on_queries_lost();  // memory replies of a serving worker are not trusted
    }
    worker.state = WorkerProcess::State::serving;
    worker.resident_at_begin = resident_memory(worker.pid);
    worker.began_at = Clock::now();
    worker.session = message.number;
    worker.client = message.text;
    worker.address = address;
    worker.lines = message.count;
    worker.token = message.token;
    return {};
}

Result<> WorkerPool::hand_over(WorkerProcess & worker, const ControlMessage & message, int socket, bool resumes) {
    return resumes ? hand_over_watched(worker, message, socket) : send_socket(worker, message, socket);
}

Result<> WorkerPool::send_socket(WorkerProcess & worker, const ControlMessage & message, int socket) {
    if (!worker.control) {
        return fail(Errc::closed, "its worker process has died");
    }
    if (const auto sent = try_send_control(worker.control.get(), message, socket); !sent) {
        return fail(Errc::unavailable, "its worker process cannot take a connection just now: {}", sent.error().text);
    }
    return {};
}

// Hands over only sockets that can be watched: otherwise a worker that hangs after its client has left is never killed.
Result<> WorkerPool::hand_over_watched(WorkerProcess & worker, const ControlMessage & message, int socket) {
    if (worker.connections.size() >= max_connections) {
        return fail(Errc::unavailable, "its session has too many connections already");
    }
    auto copy = platform::duplicate(socket);
    if (!copy) {
        return fail(Errc::unavailable, "its connection cannot be watched: {}", copy.error().text);
    }
    if (auto sent = send_socket(worker, message, socket); !sent) {
        return sent;
    }
    worker.deadline = no_deadline;
    worker.connections.push_back(std::move(*copy));
    return {};
}

void WorkerPool::connection_closed(WorkerProcess & worker, std::list<UniqueFd>::iterator connection) {
    worker.connections.erase(connection);
    if (worker.connections.empty() && worker.state == WorkerProcess::State::serving) {
        const seconds grace = worker.token != 0 ? options_.session_grace : seconds(0);
        worker.deadline = Clock::now() + tunable::worker_exit_timeout + grace;
    }
}

TimePoint WorkerPool::next_deadline() const {
    TimePoint next = no_deadline;
    for (const WorkerProcess & worker : workers_) {
        next = std::min(next, worker.deadline);
        if (worker.state == WorkerProcess::State::spare) {
            next = std::min(next, worker.warm_up_at);
            next = std::min(next, worker.pending_queries == 0 ? worker.leave_at : no_deadline);
        }
    }
    return next;
}

void WorkerPool::kill_hanging() {
    const TimePoint now = Clock::now();
    for (WorkerProcess & worker : workers_) {
        if (worker.deadline > now) {
            continue;
        }
        const auto state = worker.state;
        retire(worker, Signal::kill);
        switch (state) {
            case WorkerProcess::State::loading:
                start_failed(formatted("a worker process did not load its devices within {} s (--load-timeout), and was killed",
                                       options_.load_timeout.count()));
                on_queries_lost();
                break;
            case WorkerProcess::State::spare:
                if (worker.is_warming_up) {
                    warm_up_failed(worker.asked_to_stop ? "did not stop in time, and was killed"
                                                        : "took too long, and was killed");
                } else {
                    log_error("a worker process that waited for a session did not answer within {} s, and was killed",
                              tunable::worker_reply_timeout.count());
                }
                on_queries_lost();
                break;
            case WorkerProcess::State::serving:
                log_error("session {} with {} ended: its worker process {} hung {}, and was killed", worker.session,
                          worker.client, worker.pid,
                          worker.end_reported ? "at its end" : "after its client had left");
                break;
            case WorkerProcess::State::retired: break;
        }
    }
}

void WorkerPool::end_half_open(WorkerProcess & worker) {
    const std::chrono::duration<double> silence = Clock::now() - worker.began_at;
    retire(worker, Signal::kill);
    session_lines_.give_back(worker.address, worker.lines);
    log_event(worker.address, "Client connection closed (session {}): the client sent no command for {:.1f} s, and others wait",
              worker.session, silence.count());
}

bool WorkerPool::query_memory(uint32_t device) {
    WorkerProcess * worker = spare();
    const bool asked = worker != nullptr && device < devices().size() &&
                       send_control(worker->control.get(),
                                    {.kind = ControlMessage::Kind::memory,
                                     .number = device,
                                     .memory_free = unpromised(available_memory(), holdings(workers_))});
    if (asked) {
        if (worker->pending_queries++ == 0) {
            worker->deadline = Clock::now() + tunable::worker_reply_timeout;
        }
    }
    return asked;
}

// If the first worker fails, the server fails, and its caller logs the error.
void WorkerPool::start_failed(std::string cause) {
    const bool is_first = devices().empty();
    if (!is_first) {
        cause.insert(0, "this server cannot start worker processes: ");
    }
    if (start_failures_.failed(std::move(cause), Clock::now()) && !is_first) {
        log_error("{}. Clients are refused until it can; the next attempts follow every {} to {} s", start_failures_.cause(),
                  tunable::min_respawn_pause.count(), tunable::max_respawn_pause.count());
    }
}

void WorkerPool::signal_all(Signal signal, bool serving_too) {
    for (WorkerProcess & worker : workers_) {
        if (serving_too || worker.state != WorkerProcess::State::serving) {
            worker.stop_requested = true;
            platform::send_signal(worker.pid, signal);
        }
    }
}

}  // namespace caravan::server
