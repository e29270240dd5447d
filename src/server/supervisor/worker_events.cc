// What worker processes report, and how they end: their messages, stops and exits. worker_pool.cc has the rest of WorkerPool.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/printable.h"
#include "server/ipc/build.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/memory_claims.h"
#include "server/supervisor/session_summary.h"
#include "server/supervisor/shared_memories.h"
#include "server/supervisor/worker_pool.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

using platform::Signal;

constexpr int max_final_batches = 1000;  // of messages_at_once messages, after an exit: more than the socket holds

}  // namespace

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
        retire(worker, Signal::kill);
        start_failed(formatted("caravan-worker is of build {} and rpc-server of build {}: install or build both together",
                               printable(**build), build_text()));
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
            worker.leave_at = options_.keep_spare ? no_deadline : Clock::now() + tunable::unused_worker_lifetime;
            if (start_failures_.started()) {
                log_info("worker processes start again: clients are served");
            }
            prepare(worker);
            break;
        case ControlMessage::Kind::failed: load_error_ = message.text; break;
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
        case ControlMessage::Kind::begun: worker.has_begun = true; break;
        case ControlMessage::Kind::ended:
            if (worker.state == WorkerProcess::State::serving && !worker.end_reported) {
                worker.end_reported = true;
                worker.deadline = Clock::now() + tunable::worker_exit_timeout;
                worker.connections.clear();
                session_lines_.give_back(worker.address, std::min(message.count, worker.lines));
                log_end(worker, message);
                keep_graphs(worker, message.memory_total);
            }
            break;
        case ControlMessage::Kind::memory:
            if (worker.pending_queries > 0) {
                if (--worker.pending_queries == 0 && worker.state == WorkerProcess::State::spare && !worker.is_warming_up) {
                    worker.deadline = no_deadline;
                }
                on_memory_reply(message);
            }
            break;
        case ControlMessage::Kind::warmed:
            if (worker.state == WorkerProcess::State::spare && worker.is_warming_up && message.number == worker.warm_ups) {
                worker.is_warming_up = worker.asked_to_stop = false;
                worker.deadline = no_deadline;
            }
            break;
        case ControlMessage::Kind::claim:
            if (worker.state == WorkerProcess::State::serving) {
                reply_to_claim(workers_, worker, message, options_.max_memory);
            }
            break;
        case ControlMessage::Kind::comm:
            if (worker.state == WorkerProcess::State::serving && !worker.end_reported && on_comm) {
                on_comm(worker, message);
            }
            break;
        case ControlMessage::Kind::invite:
            if (worker.invitations < max_invitations) {
                ++worker.invitations;
                tokens_.try_emplace(message.token, worker.pid);
            }
            break;
        case ControlMessage::Kind::forget:
            if (const auto known = tokens_.find(message.token); worker.invitations > 0 && message.token != worker.token &&
                                                                known != tokens_.end() && known->second == worker.pid) {
                tokens_.erase(known);
                --worker.invitations;
            }
            break;
        case ControlMessage::Kind::share:
        case ControlMessage::Kind::open_shared:
        case ControlMessage::Kind::unshare:
            if (worker.state == WorkerProcess::State::serving) {
                serve_shared_memory(worker, message);
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
        if (worker->is_warming_up) {
            warm_up_failed(formatted("died of {}", status.text()));
        } else {
            log_warning("a worker process that waited for a session died of {}{}", status.text(),
                        options_.keep_spare ? "; another one starts" : "");
            start_failures_.spare_died(Clock::now());
        }
        on_queries_lost();
    } else if (worker->state == WorkerProcess::State::loading && !stopping_) {
        std::string cause = std::exchange(load_error_, {});
        if (cause.empty()) {
            cause = formatted("a worker process ended while it started: {}", status.text());
        }
        start_failed(std::move(cause));
        on_queries_lost();
    }
    std::erase_if(tokens_, [&](const auto & token) { return token.second == pid; });
    workers_.erase(worker);
    return true;
}

}  // namespace caravan::server
