#include "server/supervisor/supervisor.h"

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

#include "base/counted.h"
#include "base/log.h"
#include "platform/caught_signals.h"
#include "platform/file.h"
#include "platform/poll.h"
#include "platform/process_control.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/banner.h"
#include "server/supervisor/comm_listener.h"
#include "server/supervisor/open_files.h"
#include "server/supervisor/reception.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

class Supervisor {
public:
    Supervisor(const ServerOptions & options, const WorkerProgram & program, platform::CaughtSignals signals,
               size_t max_waiting)
        : options_(options),
          program_(program),
          workers_(options.worker, [this] { return start_worker(program_, options_.worker, beyond_loopback_); }),
          comm_(options, workers_),
          reception_(options, workers_, max_waiting),
          signals_(std::move(signals)) {}

    Result<> run();

private:
    Result<std::vector<net::Listener>> bind();
    Result<> wait_for_first_worker();
    void print_banner();
    void spawn_indexer();
    void run_once(TimePoint deadline);
    void log_lateness(TimePoint wake_up) const;
    void handle_signals();
    void reap();
    void drain();

    const ServerOptions & options_;
    const WorkerProgram & program_;
    bool beyond_loopback_ = false;  // listens on other addresses than loopback
    std::vector<net::Listener> listeners_;
    WorkerPool workers_;
    IndexerProcess indexer_;
    CommListener comm_;
    Reception reception_;
    platform::CaughtSignals signals_;
};

// Waits until the first worker has loaded: the devices are known and printed before clients are accepted.
Result<> Supervisor::wait_for_first_worker() {
    while (workers_.spare() == nullptr && signals_.stop_requests() == 0) {
        if (!workers_.outage().empty()) {
            return fail(Errc::unavailable, "{}", workers_.outage());
        }
        run_once(no_deadline);
    }
    return {};
}

void Supervisor::print_banner() {
    print_lines(banner(options_, listeners_, workers_));
    if (beyond_loopback_) {
        log_warning("this server listens beyond this machine, and any client that reaches it can use its devices: there is no "
                    "authentication and no encryption. Use a trusted network only");
    }
    const int threads = options_.worker.threads, cores = static_cast<int>(std::thread::hardware_concurrency());
    if (lends_cpu(workers_) && cores > 0 && threads > cores) {
        log_warning("-t {}: this machine has {}, and computes faster with -t {}", threads,
                    counted(static_cast<uint64_t>(cores), "core"), cores);
    }
}

void Supervisor::spawn_indexer() {
    if (options_.worker.weights.model_dirs.empty()) {
        return;
    }
    auto indexer = start_indexer(program_, options_.worker);
    if (!indexer) {
        log_warning("model-dir: {}", indexer.error().text);
        return;
    }
    indexer_ = std::move(*indexer);
}

void Supervisor::reap() {
    while (const auto event = platform::next_child_event()) {
        if (event->kind != platform::ChildEvent::Kind::exited) {
            workers_.record_stop(event->process, event->kind == platform::ChildEvent::Kind::stopped);
            continue;
        }
        if (event->process == indexer_.pid) {
            if (event->status.signal != 0 && signals_.stop_requests() == 0) {
                log_warning("model-dir: looking through the files ended early by {}; what is known by now is used",
                            event->status.text());
            }
            indexer_ = {};
            workers_.replace_spare();
            continue;
        }
        workers_.reap(event->process, event->status);
    }
}

void Supervisor::handle_signals() {
    signals_.read();
    if (signals_.stop_requests() > 0) {
        workers_.stop();
    }
    reap();
}

// A late wake-up is the only trace of a stop by a signal: SIGCONT also comes without one (timeout(1) sends it).
void Supervisor::log_lateness(TimePoint wake_up) const {
    const auto late = Clock::now() - wake_up;
    if (late >= tunable::min_logged_lateness) {
        log_warning("the server's main process did not run for {:.1f} s or more: it was stopped by a signal, or the machine is "
                    "overloaded", std::chrono::duration<double>(late).count());
    }
}

// Polls until the deadline at most, and handles the events.
void Supervisor::run_once(TimePoint deadline) {
    std::vector<platform::Watch> watches;
    std::vector<std::function<void()>> actions;
    const auto watch = [&](Descriptor fd, std::function<void()> action) {
        watches.push_back({fd, platform::readable, 0});
        actions.push_back(std::move(action));
    };
    watch(signals_.fd(), [this] { handle_signals(); });
    if (reception_.accept_again_at() <= Clock::now()) {
        for (net::Listener & listener : listeners_) {
            watch(listener.fd.get(), [this, &listener] { reception_.accept_all(listener); });
        }
    }
    for (const net::Listener & listener : comm_.awaited()) {
        watch(listener.fd.get(), [this] { comm_.accept(); });
    }
    for (WorkerProcess & worker : workers_.all()) {
        if (worker.control) {
            watch(worker.control.get(), [this, &worker] { workers_.receive_messages(worker); });
        }
        for (auto connection = worker.connections.begin(); connection != worker.connections.end(); ++connection) {
            watch(connection->get(), [this, &worker, connection] { workers_.connection_closed(worker, connection); });
            watches.back().events = platform::hung_up;
        }
    }
    for (WaitingClient & client : reception_.clients()) {
        // A client that waits for the server is not read from; only the close of its connection is detected.
        if (client.wants == FrontDoor::Wants::more) {
            watch(client.client.fd(), [this, &client] { reception_.advance(client); });
        } else if (client.client.awaits_confirmation()) {
            watch(client.client.fd(), [this, &client] { reception_.receive_confirmation(client); });
        } else {
            watch(client.client.fd(), [this, &client] { reception_.drop(client); });
            watches.back().events = platform::hung_up;
        }
    }
    deadline = std::min({deadline, workers_.next_deadline(), reception_.next_deadline()});
    if (workers_.respawn_at() > Clock::now()) {
        deadline = std::min(deadline, workers_.respawn_at());
    }
    const TimePoint now = Clock::now(), wake_up = std::max(now, std::min(deadline, now + tunable::heartbeat));
    const auto ready = platform::poll(watches, poll_timeout_ms(wake_up));
    log_lateness(wake_up);
    if (ready && *ready > 0) {
        // In reverse order: connections are accepted after all others were read from. Signals come last, since reaping a worker
        // invalidates references of other actions.
        for (size_t i = watches.size(); i-- > 0;) {
            if (watches[i].revents != 0) {
                actions[i]();
            }
        }
    }
    workers_.kill_hanging();
    workers_.end_unused();
    workers_.begin_warm_ups();
    comm_.update();
    reception_.serve_all();
    if (!workers_.devices().empty()) {
        workers_.keep_spare();
    }
}

void Supervisor::drain() {
    std::erase_if(listeners_, [](const net::Listener & listener) {
        if (listener.endpoint.kind != net::Endpoint::Kind::unix_socket) {
            return false;
        }
        platform::remove_name(listener.endpoint.path);
        return true;  // sessions over Unix sockets are not resumed
    });
    reception_.stop();
    indexer_.control.reset();  // the indexer then exits
    workers_.signal_all(platform::Signal::terminate, false);
    std::string rest;
    if (const size_t serving = workers_.serving(); serving > 0) {
        rest = formatted("; {} may go on {}; a second signal ends {} now", counted(serving, "session"),
                         options_.drain != ServerOptions::no_limit ? formatted("for {} s", options_.drain.count())
                         : serving == 1                            ? "until it ends"
                                                                   : "until they end",
                         serving == 1 ? "it" : "them");
    }
    log_event("", "stopping ({}): served {}{}", signals_.stop_signal() == platform::Signal::interrupt ? "SIGINT" : "SIGTERM",
              counted(reception_.sessions_begun(), "session"), rest);
    const int requests = signals_.stop_requests();
    const TimePoint end = options_.drain == ServerOptions::no_limit ? no_deadline : Clock::now() + options_.drain;
    while (!workers_.empty() && signals_.stop_requests() == requests && Clock::now() < end) {
        run_once(end);
    }
    for (const auto signal : {platform::Signal::terminate, platform::Signal::kill}) {
        workers_.signal_all(signal, true);
        const TimePoint killed_at = Clock::now() + tunable::worker_kill_grace;
        while (!workers_.empty() && Clock::now() < killed_at) {
            run_once(killed_at);
        }
    }
}

Result<std::vector<net::Listener>> Supervisor::bind() {
    for (int tries = 1;; ++tries) {
        auto listeners = net::bind_to(options_.host, options_.port);
        if (!listeners || !options_.stock_comm) {
            return listeners;
        }
        auto set = comm_.set_port(listeners->front().endpoint.port);
        if (set) {
            return listeners;
        }
        if (options_.port != 0 || tries == tunable::free_port_tries) {
            return std::unexpected(set.error());
        }
    }
}

Result<> Supervisor::run() {
    // Binds before the devices load, to detect a port in use early; clients can connect only afterwards.
    auto listeners = bind();
    if (!listeners) {
        return std::unexpected(listeners.error());
    }
    beyond_loopback_ = std::ranges::any_of(*listeners, &net::Listener::beyond_loopback);
    if (auto started = wait_for_first_worker(); !started) {
        return started;
    }
    if (auto opened = net::start_listening(*listeners); !opened) {
        return opened;
    }
    listeners_ = std::move(*listeners);
    if (signals_.stop_requests() == 0) {
        print_banner();
        spawn_indexer();
    }
    while (signals_.stop_requests() == 0) {
        run_once(no_deadline);
    }
    drain();
    end_server_log();
    return {};
}

}  // namespace

Result<> run_supervisor(const ServerOptions & options, const WorkerProgram & program) {
    ServerOptions bounded = options;
    if (bounded.max_per_address == 0) {
        bounded.max_per_address = std::max(1, bounded.max_sessions - 1);
    }
    auto signals = platform::CaughtSignals::install();
    if (!signals) {
        return std::unexpected(signals.error());
    }
    const size_t max_waiting = fit_open_files(bounded);
    return Supervisor(bounded, program, std::move(*signals), max_waiting).run();
}

}  // namespace caravan::server
