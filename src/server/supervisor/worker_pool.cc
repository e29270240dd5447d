#include "server/supervisor/worker_pool.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/printable.h"
#include "platform/socket.h"
#include "server/ipc/build.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/memory_claims.h"
#include "server/supervisor/session_summary.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

using platform::Signal;

constexpr int max_final_batches = 1000;  // of messages_at_once messages, after an exit: more than the socket holds

bool is_spare(const WorkerProcess & worker) {
    return worker.state == WorkerProcess::State::loading || worker.state == WorkerProcess::State::spare;
}

}  // namespace

void WorkerPool::ensure_spare() {
    if (std::ranges::any_of(workers_, is_spare) || stopping_ || Clock::now() < respawn_at_) {
        return;
    }
    auto worker = start_();
    if (!worker) {
        start_failure_ = worker.error().text;
        start_failed();
        return;
    }
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
    ensure_spare();
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
    return found == workers_.end() ? nullptr : &*found;
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
                start_failure_ = formatted("a worker process did not load its devices within {} s (--load-timeout), and was "
                                           "killed", options_.load_timeout.count());
                start_failed();
                on_queries_lost();
                break;
            case WorkerProcess::State::spare:
                log_error("a worker process that waited for a session did not answer within {} s, and was killed",
                          tunable::worker_reply_timeout.count());
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

// Reads the first message of a worker. False: it has not arrived, or the worker's program is of another build.
bool WorkerPool::check_build(WorkerProcess & worker) {
    const auto build = receive_build(worker.control.get());
    if (!build) {
        worker.control.reset();  // reap() logs the exit
        return false;
    }
    if (!*build) {
        return false;
    }
    worker.awaits_build = false;
    if (**build != build_text()) {
        start_failure_ = formatted("caravan-worker is of build {} and rpc-server of build {}: install or build both together",
                                   printable(**build), build_text());
        retire(worker, Signal::kill);
        start_failed();
        on_queries_lost();
        return false;
    }
    return true;
}

// A serving worker may be compromised: its messages affect its own state only, and other kinds are ignored.
bool WorkerPool::receive_messages(WorkerProcess & worker) {
    if (worker.awaits_build && !check_build(worker)) {
        return false;
    }
    for (int count = 0; count < tunable::messages_at_once; ++count) {
        auto received = receive_control(worker.control.get(), Descriptors::refuse);
        if (!received) {
            worker.control.reset();  // reap() logs the exit
            return false;
        }
        if (!*received) {
            return false;
        }
        const ControlMessage & message = (*received)->message;
        if (worker.state == WorkerProcess::State::retired) {
            continue;
        }
        if (worker.state == WorkerProcess::State::loading) {
            on_loading_message(worker, message);
        } else {
            on_session_message(worker, message);
        }
    }
    return true;
}

void WorkerPool::on_loading_message(WorkerProcess & worker, const ControlMessage & message) {
    switch (message.kind) {
        case ControlMessage::Kind::ready:
            worker.state = WorkerProcess::State::spare;
            worker.deadline = no_deadline;
            if (!std::exchange(outage_, {}).empty()) {
                log_info("worker processes start again: clients are served");
            }
            respawn_pause_ = tunable::min_respawn_pause;
            break;
        case ControlMessage::Kind::failed: start_failure_ = message.text; break;
        default: reports_.receive(message); break;
    }
}

void WorkerPool::log_end(const WorkerProcess & worker, const ControlMessage & ended) const {
    const SessionCounters counters = bounded(ended.counters, Clock::now() - worker.began_at, devices().size());
    log_event(worker.address, "Client connection closed (session {}): {}{}", worker.session, ended.text,
              counters.did_work() ? "; " + summary_of(counters) : "");
}

void WorkerPool::on_session_message(WorkerProcess & worker, const ControlMessage & message) {
    switch (message.kind) {
        case ControlMessage::Kind::ended:
            if (worker.state == WorkerProcess::State::serving && !worker.end_reported) {
                worker.end_reported = true;
                worker.deadline = Clock::now() + tunable::worker_exit_timeout;
                worker.connections.clear();
                session_lines_.give_back(worker.address, std::min(message.count, worker.lines));
                log_end(worker, message);
            }
            break;
        case ControlMessage::Kind::memory:
            if (worker.pending_queries > 0) {
                if (--worker.pending_queries == 0 && worker.state == WorkerProcess::State::spare) {
                    worker.deadline = no_deadline;
                }
                on_memory_reply(message);
            }
            break;
        case ControlMessage::Kind::claim:
            if (worker.state == WorkerProcess::State::serving) {
                reply_to_claim(workers_, worker, message, options_.max_memory);
            }
            break;
        case ControlMessage::Kind::invite:
            if (worker.invitations < max_invitations) {
                ++worker.invitations;
                tokens_.try_emplace(message.token, worker.pid);
            }
            break;
        default: break;
    }
}

void WorkerPool::record_stop(platform::ProcessId pid, bool is_stopped) {
    const auto worker = std::ranges::find(workers_, pid, &WorkerProcess::pid);
    if (worker == workers_.end() || worker->state == WorkerProcess::State::retired) {
        return;
    }
    const std::string whose = worker->state == WorkerProcess::State::serving
                                  ? formatted("session {} with {}", worker->session, worker->client)
                                  : std::string("no session yet");
    if (is_stopped) {
        worker->stopped_at = Clock::now();
        log_warning("worker process {} ({}) was stopped by a signal", pid, whose);
    } else if (worker->stopped_at != TimePoint()) {
        log_warning("worker process {} ({}) goes on after a stop of {:.1f} s", pid, whose,
                    std::chrono::duration<double>(Clock::now() - std::exchange(worker->stopped_at, {})).count());
    }
}

bool WorkerPool::reap(platform::ProcessId pid, const platform::ExitStatus & status) {
    const auto worker = std::ranges::find(workers_, pid, &WorkerProcess::pid);
    if (worker == workers_.end()) {
        return false;
    }
    for (int batches = 0; worker->control && batches < max_final_batches && receive_messages(*worker); ++batches) {
    }
    if (worker->state == WorkerProcess::State::serving) {
        if (worker->stop_requested && !worker->end_reported) {
            log_event(worker->address, "Client connection closed (session {}): the server stopped", worker->session);
        } else if (!status.is_success() || !worker->end_reported) {
            log_error("session {} with {} ended: its worker process {} died of {}; other sessions are not affected",
                      worker->session, worker->client, pid, status.text());
        }
    } else if (worker->state == WorkerProcess::State::spare && !stopping_) {
        log_warning("a worker process that waited for a session died of {}; another one starts", status.text());
        respawn_at_ = Clock::now() + tunable::min_respawn_pause;
        on_queries_lost();
    } else if (worker->state == WorkerProcess::State::loading && !stopping_) {
        if (start_failure_.empty()) {
            start_failure_ = formatted("a worker process ended while it started: {}", status.text());
        }
        start_failed();
        on_queries_lost();
    }
    std::erase_if(tokens_, [&](const auto & token) { return token.second == pid; });
    workers_.erase(worker);
    return true;
}

// Logs each cause once, not each attempt. If the first worker fails, the server fails, and its caller logs the error.
void WorkerPool::start_failed() {
    const bool is_first = devices().empty();
    std::string cause = (is_first ? "" : "this server cannot start worker processes: ") + std::exchange(start_failure_, {});
    if (!is_first && cause != outage_) {
        log_error("{}. Clients are refused until it can; the next attempts follow every {} to {} s", cause,
                  tunable::min_respawn_pause.count(), tunable::max_respawn_pause.count());
    }
    outage_ = std::move(cause);
    respawn_at_ = Clock::now() + respawn_pause_;
    respawn_pause_ = std::min(respawn_pause_ * 2, tunable::max_respawn_pause);
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
