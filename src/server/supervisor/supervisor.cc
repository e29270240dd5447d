#include "server/supervisor/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <set>
#include <thread>

#include "base/counted.h"
#include "base/log.h"
#include "server/ipc/control.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/banner.h"
#include "server/supervisor/session_slots.h"
#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {
namespace {

constexpr int accepts_at_once = 64;       // per listener and round
constexpr seconds accept_pause{1};        // after an error such as too many open files
constexpr milliseconds give_pause{100};   // after a client could not be handed to a worker
constexpr seconds drop_report_pause{10};  // between log lines about dropped connections
constexpr seconds time_to_stay{1};        // waiting time of a client before an idle session is ended for it
constexpr milliseconds time_to_end{500};  // for an asked session to end, before another one is asked
constexpr seconds last_grace{2};          // between SIGTERM and SIGKILL for a worker
// The supervisor wakes up at this interval to detect that it was stopped. SIGCONT cannot show it, since it also comes without
// a stop (timeout(1) sends it).
constexpr seconds heartbeat{5}, noted_lateness{3};

#ifdef POLLRDHUP
constexpr short hang_up = POLLRDHUP;
#else
constexpr short hang_up = 0;
#endif

int signal_pipe[2] = {-1, -1};

void on_signal(int signal) {
    const int saved = errno;
    const char byte = static_cast<char>(signal);
    [[maybe_unused]] const ssize_t ignored = ::write(signal_pipe[1], &byte, 1);
    errno = saved;
}

Result<> catch_signals() {
    if (::pipe(signal_pipe) != 0) {
        return fail(Errc::io, "cannot make a pipe: {}", errno_text(errno));
    }
    for (const int fd : signal_pipe) {
        ::fcntl(fd, F_SETFD, FD_CLOEXEC);
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) {
        ::sigaction(signal, &action, nullptr);
    }
    ::signal(SIGPIPE, SIG_IGN);
    return {};
}

// Raises the limit of open files as needed and permitted. Returns the permitted number of clients without a session. Reduces
// the sessions in `options` if the limit is too low.
size_t fit_open_files(ServerOptions & options) {
    constexpr size_t own = 16;  // listeners, signals, standard streams, the spare worker, a loading worker, the indexer
    constexpr size_t of_session = 2, of_busy_session = 1 + WorkerPool::max_connections;
    constexpr size_t most = 256, least = 8;
    // Descriptors in flight count per user. The kernel lets a process send descriptors while their number is within its own
    // limit, up to 253 with one message. A worker's limit therefore lies below this process's by one such message and the
    // descriptors in flight to all workers, so that a compromised worker cannot stop this process from sending (control.h).
    constexpr size_t of_message = 253, of_line = 24;
    constexpr size_t usual_of_worker = 4096, least_of_worker = 256;
    const auto sessions = static_cast<size_t>(options.max_sessions);
    const size_t above_workers = of_message + sessions * of_line;
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return most;
    }
    const size_t wanted = std::max(own + most + sessions * of_busy_session, usual_of_worker + above_workers);
    if (files.rlim_cur < wanted && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = std::min<rlim_t>(files.rlim_max, wanted);
        ::setrlimit(RLIMIT_NOFILE, &files);
    }
    const size_t for_worker = files.rlim_cur - std::min<rlim_t>(files.rlim_cur, above_workers);
    options.worker.open_files = std::min<rlim_t>(std::clamp(for_worker, least_of_worker, usual_of_worker), files.rlim_cur);
    const size_t left = std::max<rlim_t>(files.rlim_cur, own + least + of_session) - own;
    if (left < least + sessions * of_session) {
        options.max_sessions = static_cast<int>((left - least) / of_session);
        options.max_per_address = std::min(options.max_per_address, options.max_sessions);
        log_warning("{} open files (ulimit -n) are enough for {}: serving no more at once", files.rlim_cur,
                    counted(static_cast<uint64_t>(options.max_sessions), "session"));
    }
    return std::min(left - static_cast<size_t>(options.max_sessions) * of_session, most);
}

class Supervisor {
public:
    Supervisor(const ServerOptions & options, const WorkerProgram & program, size_t max_waiting)
        : options_(options),
          program_(program),
          workers_(options.worker, [this] { return start_worker(program_, options_.worker, beyond_loopback_); }),
          slots_(static_cast<size_t>(options.max_sessions), static_cast<size_t>(options.max_per_address)),
          waiting_(max_waiting) {
        workers_.on_memory = [this](const ControlMessage & answer) { answer_memory(answer); };
        workers_.on_questions_lost = [this] { asked_devices_.clear(); };
    }

    Result<> run();

private:
    Result<> first_worker();
    void print_banner();
    void spawn_indexer();
    void round(TimePoint deadline);
    void note_lateness(TimePoint wake_up) const;
    void accept_all(net::Listener & listener);
    void advance(WaitingClient & client);
    std::string_view outage() const;
    void refuse(WaitingClient & client);
    void place(WaitingClient & client);
    void ask_memory(WaitingClient & client);
    void warn_of_shared_cores();
    void answer_memory(const ControlMessage & answer);
    void place_by_token(WaitingClient & client);
    void serve_queue();
    void tell_place(WaitingClient & client, uint32_t position, SessionSlots::Verdict verdict);
    bool give_session(WaitingClient & client);
    void contend();
    void tend_waiting();
    void report_dropped();
    void handle_signals();
    void reap();
    void drain();

    const ServerOptions & options_;
    const WorkerProgram & program_;
    bool beyond_loopback_ = false;  // listens on other addresses than loopback
    std::vector<net::Listener> listeners_;
    WorkerPool workers_;
    IndexerProcess indexer_;
    SessionSlots slots_;
    WaitingClients waiting_;
    std::set<uint32_t> asked_devices_;  // devices whose memory was queried from the spare worker
    uint64_t next_session_ = 1;
    TimePoint accept_again_ = TimePoint::min(), report_again_ = TimePoint::min();
    TimePoint contend_at_ = no_deadline, asked_idle_at_ = TimePoint();  // idle sessions: when to ask next, when asked last
    size_t unreported_ = 0;  // dropped connections since the last log line about them
    int stop_requests_ = 0, stop_signal_ = 0;  // stop_signal_: the first one
    TimePoint give_again_ = TimePoint::min();
    bool giving_fails_ = false;      // and this was logged
    bool cores_are_shared_ = false;  // and this was logged
    bool draining_ = false;
};

// Waits until the first worker has loaded: the devices are known and printed before clients are accepted.
Result<> Supervisor::first_worker() {
    workers_.want_spare();
    while (workers_.spare() == nullptr && stop_requests_ == 0) {
        if (!workers_.outage().empty()) {
            return fail(Errc::unavailable, "{}", workers_.outage());
        }
        round(no_deadline);
    }
    return {};
}

void Supervisor::print_banner() {
    print_lines(banner(options_, listeners_, workers_));
    if (beyond_loopback_) {
        log_warning("this server listens beyond this machine, and whoever reaches it can use its devices: there is no "
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

// Reads from each new connection immediately: its HELLO may have arrived already, and then it does not count as silent.
void Supervisor::accept_all(net::Listener & listener) {
    const bool may_resume = options_.worker.session_grace.count() > 0 &&
                            listener.endpoint.kind == net::Endpoint::Kind::tcp;  // network faults do not affect Unix sockets
    for (int accepted = 0; accepted < accepts_at_once; ++accepted) {
        auto socket = net::accept_socket(listener.fd.get());
        if (!socket) {
            log_warning("{}", socket.error().text);
            accept_again_ = Clock::now() + accept_pause;
            break;
        }
        if (!*socket) {
            break;
        }
        WaitingClient & client = waiting_.add(std::move(*socket), may_resume);
        log_debug("connection from {}", client.client.peer());
        advance(client);
        waiting_.bound();
    }
}

void Supervisor::advance(WaitingClient & client) {
    if (client.closing) {
        return;
    }
    client.heard = Clock::now();
    const auto wants = client.client.advance(workers_.devices(), outage());
    if (!wants) {
        if (wants.error().code == Errc::closed) {
            log_debug("{} {}", client.client.peer(), wants.error().text);
        } else {
            log_warning("dropping {}: it {}", client.client.peer(), wants.error().text);
        }
        waiting_.drop(client);
        return;
    }
    client.wants = *wants;
    place(client);
}

// Serves what a client wants if possible now, except new sessions (serve_queue()).
void Supervisor::place(WaitingClient & client) {
    if (client.wants == FrontDoor::Wants::session && client.client.token() != 0) {
        place_by_token(client);
    } else if (client.wants != FrontDoor::Wants::more && !outage().empty()) {
        refuse(client);
    } else if (client.wants == FrontDoor::Wants::memory) {
        ask_memory(client);
    }
}

// Why no client gets a new session now; empty if clients may. A draining server accepts only connections of existing sessions.
std::string_view Supervisor::outage() const { return draining_ ? "the server is stopping" : std::string_view(workers_.outage()); }

void Supervisor::refuse(WaitingClient & client) {
    client.wants = FrontDoor::Wants::more;
    if (!client.client.refuse(outage())) {
        waiting_.drop(client);
    }
}

// One query for each device at a time, for all clients that wait for its memory.
void Supervisor::ask_memory(WaitingClient & client) {
    const uint32_t device = client.client.memory_device();
    if (device >= workers_.devices().size()) {
        log_warning("dropping {}: it asked about device {}, which is not there any more", client.client.peer(), device);
        waiting_.drop(client);
        return;
    }
    if (!asked_devices_.contains(device) && workers_.ask_memory(device)) {
        asked_devices_.insert(device);
    }
}

void Supervisor::answer_memory(const ControlMessage & answer) {
    asked_devices_.erase(answer.number);
    for (WaitingClient & client : waiting_.all()) {
        if (client.wants != FrontDoor::Wants::memory || client.closing || client.client.memory_device() != answer.number) {
            continue;
        }
        client.wants = FrontDoor::Wants::more;
        if (!client.client.answer_memory(answer.memory_free, answer.memory_total)) {
            waiting_.drop(client);
        }
    }
}

bool Supervisor::give_session(WaitingClient & client) {
    WorkerProcess * worker = workers_.spare();
    if (worker == nullptr || Clock::now() < give_again_) {
        return false;
    }
    ControlMessage message{.kind = ControlMessage::Kind::session,
                           .number = static_cast<uint32_t>(next_session_),
                           .prefix_size = static_cast<uint32_t>(client.client.prefix().size()),
                           .token = client.client.session_token()};
    message.set_text(client.client.peer());
    std::ranges::copy(client.client.prefix(), message.prefix);
    if (const auto given = workers_.give_session(*worker, message, client.address, client.client.fd()); !given) {
        give_again_ = Clock::now() + give_pause;
        if (!std::exchange(giving_fails_, true)) {
            log_warning("{} waits for a session: {}; trying again", client.client.peer(), given.error().text);
        }
        return false;
    }
    giving_fails_ = false;
    const UniqueFd socket = client.client.release();
    client.closing = true;
    slots_.note_begun(client.address);
    ++next_session_;
    warn_of_shared_cores();
    log_event(client.address, "Accepted client connection from {} (session {}){}", worker->client, worker->session,
              net::peer_credentials(socket.get()));
    workers_.want_spare();
    return true;
}

// Gives sessions to waiting clients, and sends the others their position in the queue.
void Supervisor::serve_queue() {
    std::vector<std::string> held;
    for (const WorkerProcess & worker : workers_.all()) {
        if (worker.state == WorkerProcess::State::serving) {
            held.push_back(worker.address);
        }
    }
    slots_.set_held(held);
    uint32_t position = 0;
    for (WaitingClient * client : waiting_.queue(slots_)) {
        const auto verdict = slots_.verdict(client->address);
        if (verdict != SessionSlots::Verdict::free || !give_session(*client)) {
            tell_place(*client, ++position, verdict);
        }
    }
}

void Supervisor::tell_place(WaitingClient & client, uint32_t position, SessionSlots::Verdict verdict) {
    using Reason = wire::AdmissionAnswer::Reason;
    using Verdict = SessionSlots::Verdict;
    if (verdict != Verdict::free && !client.logged) {
        client.logged = true;
        log_warning("{} waits for a session: {} in use ({})", client.client.peer(), slots_.held(),
                    verdict == Verdict::server_full ? "--max-sessions" : "--max-per-address");
    }
    const wire::AdmissionAnswer place{position,
                                      verdict == Verdict::free          ? Reason::starting
                                      : verdict == Verdict::server_full ? Reason::server_full
                                                                        : Reason::address_full,
                                      static_cast<uint32_t>(slots_.held())};
    if (place.position == client.place.position && place.reason == client.place.reason) {
        return;
    }
    client.place = place;
    if (!client.client.tell_place(place)) {
        waiting_.drop(client);
    }
}

// A session that is idle for longer than --idle-limit ends while a client of another address waits. The supervisor does not
// know which sessions are idle, so it asks as many as there are waiting clients, and others after time_to_end. Only an address
// with more sessions than the waiting client's loses one, so clients cannot evict each other in turns.
void Supervisor::contend() {
    const TimePoint now = Clock::now();
    std::vector<const WaitingClient *> waiting;
    contend_at_ = no_deadline;
    for (const WaitingClient & client : waiting_.all()) {
        if (!client.wants_new_session() || slots_.verdict(client.address) != SessionSlots::Verdict::server_full) {
            continue;
        }
        if (now < client.heard + time_to_stay) {
            contend_at_ = std::min(contend_at_, client.heard + time_to_stay);
        } else {
            waiting.push_back(&client);
        }
    }
    if (!waiting.empty() && now < asked_idle_at_ + time_to_end) {
        contend_at_ = std::min(contend_at_, asked_idle_at_ + time_to_end);
        return;
    }
    const auto ask = [&](WorkerProcess & worker, bool contended) {
        const auto limit = static_cast<uint32_t>(contended ? options_.idle_limit.count() : 0);
        if (send_control(worker.control.get(), {.kind = ControlMessage::Kind::contend, .number = limit})) {
            worker.contended = contended;
        }
    };
    std::vector<WorkerProcess *> serving;  // sorted: asked longest ago first
    for (WorkerProcess & worker : workers_.all()) {
        if (worker.state == WorkerProcess::State::serving && worker.control) {
            serving.push_back(&worker);
        }
    }
    std::ranges::stable_sort(serving, {}, &WorkerProcess::contended_at);
    std::set<WorkerProcess *> asked;
    for (const WaitingClient * client : waiting) {
        const auto worker = std::ranges::find_if(serving, [&](WorkerProcess * other) {
            return !asked.contains(other) && slots_.held_by(other->address) > slots_.held_by(client->address);
        });
        if (worker != serving.end()) {
            asked.insert(*worker);
        }
    }
    for (WorkerProcess * worker : serving) {
        if (asked.contains(worker)) {
            worker->contended_at = asked_idle_at_ = now;
        }
        if (worker->contended != asked.contains(worker)) {
            ask(*worker, asked.contains(worker));
        }
    }
    if (!asked.empty()) {
        contend_at_ = std::min(contend_at_, now + time_to_end);
    }
}

// Handles all connections without a session, once in each round.
void Supervisor::tend_waiting() {
    for (WaitingClient & client : waiting_.all()) {
        if (client.closing) {
            continue;
        }
        if (client.wants == FrontDoor::Wants::more && client.client.deadline() <= Clock::now()) {
            if (!client.client.is_refused()) {
                log_warning("dropping {}: no complete handshake or command within {} s", client.client.peer(),
                            FrontDoor::patience.count());
            }
            waiting_.drop(client);
        } else {
            place(client);
        }
    }
    serve_queue();
    contend();
    waiting_.remove_closing();
    report_dropped();
}

void Supervisor::report_dropped() {
    unreported_ += waiting_.take_dropped();
    if (unreported_ > 0 && Clock::now() >= report_again_) {
        log_warning("too many clients without a session: dropped {}, of the addresses that have most", unreported_);
        unreported_ = 0;
        report_again_ = Clock::now() + drop_report_pause;
    }
}

// Hands over a connection that presented a token: from another server that opens a link with a session, or from a peer that
// resumes a link or a session.
void Supervisor::place_by_token(WaitingClient & client) {
    const bool resumes = client.client.first_command() == wire::command_resume;
    WorkerProcess * worker = workers_.owner(client.client.token());
    const auto waits = [&](const WaitingClient & other) {
        return other.wants_new_session() && other.client.session_token() == client.client.token();
    };
    if (worker == nullptr && std::ranges::any_of(waiting_.all(), waits)) {
        return;  // until its session has a worker
    }
    client.closing = true;
    if (worker == nullptr) {
        log_warning("dropping {}: it wants {} session that is not here", client.client.peer(),
                    resumes ? "to resume a" : "a link with a");
        return;
    }
    ControlMessage message{.kind = ControlMessage::Kind::link,
                           .prefix_size = static_cast<uint32_t>(client.client.prefix().size()),
                           .resumes = client.client.resumes(),
                           .token = client.client.token()};
    std::ranges::copy(client.client.prefix(), message.prefix);
    const UniqueFd socket = client.client.release();
    const bool resumes_session = resumes && worker->token == client.client.token();
    if (const auto given = workers_.give_connection(*worker, message, socket.get(), resumes_session); !given) {
        log_warning("dropping {}, which came for session {}: {}", client.client.peer(), worker->session, given.error().text);
        return;
    }
    if (client.client.first_command() == wire::command_lifeline) {
        return;
    }
    log_event(client.address, "{} {} (session {})", resumes ? "Connected again:" : "Linked with the server at", client.client.peer(),
              worker->session);
}

void Supervisor::warn_of_shared_cores() {
    const size_t threads = static_cast<size_t>(options_.worker.threads), sessions = workers_.serving();
    const size_t cores = std::thread::hardware_concurrency();
    if (cores_are_shared_ || !lends_cpu(workers_) || sessions < 2 || cores == 0 || sessions * threads <= cores) {
        return;
    }
    cores_are_shared_ = true;
    log_warning("{} sessions with {} each share {}: while several compute, each is slower than its share. Use --threads {}, or "
                "--max-sessions", sessions, counted(threads, "thread"), counted(cores, "core"),
                std::max<size_t>(1, cores / sessions));
}

void Supervisor::reap() {
    for (;;) {
        int status = 0;
        const pid_t pid = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
        if (pid <= 0) {
            return;
        }
        if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
            workers_.note_stop(pid, WIFSTOPPED(status));
            continue;
        }
        if (pid == indexer_.pid) {
            if (WIFSIGNALED(status) && stop_requests_ == 0) {
                log_warning("model-dir: looking through the files ended early by {}; what is known by now is used",
                            describe_exit(status));
            }
            indexer_ = {};
            workers_.replace_spare();
            continue;
        }
        workers_.reap(pid, status);
    }
}

void Supervisor::handle_signals() {
    char bytes[64];
    ssize_t got = 0;
    while ((got = ::read(signal_pipe[0], bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < got; ++i) {
            if (bytes[i] == SIGTERM || bytes[i] == SIGINT) {
                stop_signal_ = stop_requests_++ == 0 ? bytes[i] : stop_signal_;
            }
        }
    }
    if (stop_requests_ > 0) {
        workers_.stop();
    }
    reap();
}

// A late wake-up is the only trace of a stop by a signal.
void Supervisor::note_lateness(TimePoint wake_up) const {
    const auto late = Clock::now() - wake_up;
    if (late >= noted_lateness) {
        log_warning("the server's main process did not run for {:.1f} s or more: it was stopped by a signal, or the machine is "
                    "overloaded", std::chrono::duration<double>(late).count());
    }
}

// Polls until the deadline at most, and handles the events.
void Supervisor::round(TimePoint deadline) {
    std::vector<pollfd> fds;
    std::vector<std::function<void()>> actions;
    const auto watch = [&](int fd, std::function<void()> action) {
        fds.push_back({fd, POLLIN, 0});
        actions.push_back(std::move(action));
    };
    watch(signal_pipe[0], [this] { handle_signals(); });
    if (accept_again_ > Clock::now()) {
        deadline = std::min(deadline, accept_again_);
    }
    for (net::Listener & listener : listeners_) {
        if (accept_again_ > Clock::now()) {
            break;
        }
        watch(listener.fd.get(), [this, &listener] { accept_all(listener); });
    }
    for (WorkerProcess & worker : workers_.all()) {
        if (worker.control) {
            watch(worker.control.get(), [this, &worker] { workers_.hear(worker); });
        }
        for (auto connection = worker.connections.begin(); connection != worker.connections.end(); ++connection) {
            watch(connection->get(), [this, &worker, connection] { workers_.connection_closed(worker, connection); });
            fds.back().events = hang_up;
        }
    }
    for (WaitingClient & client : waiting_.all()) {
        // A client that waits for the server is not read from; only the close of its connection is detected.
        if (client.wants == FrontDoor::Wants::more) {
            deadline = std::min(deadline, client.client.deadline());
            watch(client.client.fd(), [this, &client] { advance(client); });
        } else {
            watch(client.client.fd(), [this, &client] { waiting_.drop(client); });
            fds.back().events = hang_up;
        }
    }
    deadline = std::min({deadline, workers_.next_deadline(), contend_at_});
    for (const TimePoint again : {workers_.respawn_at(), give_again_}) {
        if (again > Clock::now()) {
            deadline = std::min(deadline, again);
        }
    }
    const TimePoint now = Clock::now(), wake_up = std::max(now, std::min(deadline, now + heartbeat));
    const int events = ::poll(fds.data(), static_cast<nfds_t>(fds.size()), poll_timeout_ms(wake_up));
    note_lateness(wake_up);
    if (events > 0) {
        // In reverse order: connections are accepted after all others were read from. Signals come last, since reaping a worker
        // invalidates references of other actions.
        for (size_t i = fds.size(); i-- > 0;) {
            if (fds[i].revents != 0) {
                actions[i]();
            }
        }
    }
    workers_.kill_hanging();
    tend_waiting();
    if (!workers_.devices().empty()) {
        workers_.want_spare();
    }
}

void Supervisor::drain() {
    std::erase_if(listeners_, [](const net::Listener & listener) {
        return listener.endpoint.kind == net::Endpoint::Kind::unix_socket &&
               ::unlink(listener.endpoint.path.c_str()) <= 0;  // sessions over Unix sockets are not resumed
    });
    draining_ = true;
    indexer_.line.reset();  // the indexer then exits
    workers_.signal_all(SIGTERM, false);
    std::string rest;
    if (const size_t serving = workers_.serving(); serving > 0) {
        rest = formatted("; {} may go on {}; a second signal ends {} now", counted(serving, "session"),
                         options_.drain != ServerOptions::no_limit ? formatted("for {} s", options_.drain.count())
                         : serving == 1                            ? "until it ends"
                                                                   : "until they end",
                         serving == 1 ? "it" : "them");
    }
    log_event("", "stopping ({}): served {}{}", stop_signal_ == SIGINT ? "SIGINT" : "SIGTERM",
              counted(next_session_ - 1, "session"), rest);
    const int requests = stop_requests_;
    const TimePoint end = options_.drain == ServerOptions::no_limit ? no_deadline : Clock::now() + options_.drain;
    while (!workers_.empty() && stop_requests_ == requests && Clock::now() < end) {
        round(end);
    }
    for (const int signal : {SIGTERM, SIGKILL}) {
        workers_.signal_all(signal, true);
        const TimePoint patience = Clock::now() + last_grace;
        while (!workers_.empty() && Clock::now() < patience) {
            round(patience);
        }
    }
}

Result<> Supervisor::run() {
    if (auto caught = catch_signals(); !caught) {
        return caught;
    }
    // Binds before the devices load, to detect a port in use early; clients can connect only afterwards.
    auto listeners = net::bind_to(options_.host, options_.port);
    if (!listeners) {
        return std::unexpected(listeners.error());
    }
    beyond_loopback_ = std::ranges::any_of(*listeners, &net::Listener::beyond_loopback);
    if (auto started = first_worker(); !started) {
        return started;
    }
    if (auto opened = net::start_listening(*listeners); !opened) {
        return opened;
    }
    listeners_ = std::move(*listeners);
    if (stop_requests_ == 0) {
        print_banner();
        spawn_indexer();
    }
    while (stop_requests_ == 0) {
        round(no_deadline);
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
    const size_t max_waiting = fit_open_files(bounded);
    return Supervisor(bounded, program, max_waiting).run();
}

}  // namespace caravan::server
