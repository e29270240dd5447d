#include "server/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <list>
#include <thread>

#include "base/config.h"
#include "base/log.h"
#include "base/size_text.h"
#include "net/handshake.h"
#include "server/control.h"
#include "server/front_door.h"
#include "server/server_log.h"
#include "server/worker_pool.h"
#include "wire/stock.h"

namespace caravan::server {
namespace {

constexpr size_t max_doors = 256;         // clients without a session
constexpr seconds accept_pause{1};        // after a failure such as too many open files
constexpr seconds last_grace{2};          // between SIGTERM and SIGKILL for a worker

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

class Supervisor {
public:
    explicit Supervisor(const ServerOptions & options) : options_(options), workers_(options.worker) {
        workers_.on_memory = [this](const ControlMessage & answer) { answer_memory(answer); };
        workers_.on_questions_lost = [this] {
            for (Door & door : doors_) {
                door.asked = false;
            }
        };
    }

    Result<> run();

private:
    struct Door {
        FrontDoor client;
        FrontDoor::Wants wants = FrontDoor::Wants::more;
        bool asked = false;    // memory: the worker has the question
        bool told = false;     // session: a line said that it waits
        bool closing = false;  // to be dropped at the end of the round
    };

    Result<> open_listeners();
    Result<> first_worker();
    void print_banner() const;
    void spawn_indexer();
    void round(TimePoint deadline);
    void accept_all(net::Listener & listener);
    void advance(Door & door);
    void place(Door & door);
    void place_by_token(Door & door);
    void warn_of_shared_cores();
    void answer_memory(const ControlMessage & answer);
    void handle_signals();
    void reap();
    void drain();

    const ServerOptions & options_;
    std::vector<net::Listener> listeners_;
    WorkerPool workers_;
    IndexerProcess indexer_;
    std::list<Door> doors_;
    uint64_t next_session_ = 1;
    TimePoint accept_again_ = TimePoint::min();
    int stop_requests_ = 0;
    bool cores_are_shared_ = false;  // and a line has said so
};

Result<> Supervisor::open_listeners() {
    auto listeners = net::listen_on(options_.host, options_.port);
    if (!listeners) {
        return std::unexpected(listeners.error());
    }
    listeners_ = std::move(*listeners);
    workers_.set_beyond_loopback(std::ranges::any_of(listeners_, &net::Listener::beyond_loopback));
    return {};
}

// The devices are known, and shown, before the first client can connect to anything that works.
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

void Supervisor::print_banner() const {
    std::string text = formatted("Starting RPC server v{}.{}.{} (Caravan {})\n", wire::stock_major, wire::stock_minor,
                                 wire::stock_patch, CARAVAN_VERSION);
    for (const net::Listener & listener : listeners_) {
        text += formatted("  endpoint       : {}\n", listener.endpoint.text());
    }
    const cache::WeightOptions & weights = options_.worker.weights;
    if (weights.keep) {
        const std::string limit = weights.max_bytes == 0 ? "no limit" : "at most " + size_text(weights.max_bytes);
        text += formatted("  local cache    : {} ({})\n", weights.directory.string(), limit);
    } else {
        text += "  local cache    : n/a\n";
    }
    for (const auto & dir : weights.model_dirs) {
        text += formatted("  model files    : {}\n", dir.string());
    }
    text += "Devices:\n";
    for (const ControlMessage & device : workers_.devices()) {
        text += formatted("  {} ({}, {} free)\n", device.text, size_text(device.memory_total),
                          size_text(device.memory_free));
    }
    const bool is_tcp = listeners_.front().endpoint.kind == net::Endpoint::Kind::tcp;
    std::string rdma;
    if (is_tcp && net::built_with_rdma && transport_wish() != TransportWish::tcp) {
        rdma = net::why_no_rdma().empty() ? ", RDMA with clients that can"
                                          : formatted(" (no RDMA: {})", net::why_no_rdma());
    }
    text += formatted("  transport      : {}{}\n", is_tcp ? "TCP" : "unix socket", rdma);
    text += formatted("  confinement    : {}\n", workers_.confinement());
    const uint64_t memory = options_.worker.max_memory;
    text += formatted("  sessions       : at most {} at once{}\n", options_.max_sessions,
                      memory == MemoryBudget::no_limit ? "" : ", with at most " + size_text(memory) + " of memory each");
    print_lines(text);
    if (std::ranges::any_of(listeners_, &net::Listener::beyond_loopback)) {
        log_warning("this server listens beyond this machine, and whoever reaches it can use its devices: there is no "
                    "authentication and no encryption. Use a trusted network only");
    }
}

void Supervisor::spawn_indexer() {
    if (options_.worker.weights.model_dirs.empty()) {
        return;
    }
    auto indexer = start_indexer(options_.worker);
    if (!indexer) {
        log_warning("model-dir: {}", indexer.error().text);
        return;
    }
    indexer_ = std::move(*indexer);
}

void Supervisor::accept_all(net::Listener & listener) {
    for (;;) {
        auto socket = net::accept_socket(listener.fd.get());
        if (!socket) {
            log_warning("{}", socket.error().text);
            accept_again_ = Clock::now() + accept_pause;
            return;
        }
        if (!*socket) {
            return;
        }
        if (doors_.size() >= max_doors) {
            const auto silent = std::ranges::find_if(
                doors_, [](const Door & door) { return door.wants == FrontDoor::Wants::more && !door.closing; });
            if (silent == doors_.end()) {
                log_warning("{} clients wait already: dropping {}", doors_.size(), net::peer_name(socket->get()));
                continue;
            }
            log_warning("{} clients without a session: dropping {}, silent for longest", doors_.size(),
                        silent->client.peer());
            silent->closing = true;
        }
        const std::string peer = net::peer_name(socket->get());
        log_debug("connection from {}", peer);
        doors_.push_back({FrontDoor(std::move(*socket), peer, options_.worker.session_grace.count() > 0)});
    }
}

void Supervisor::advance(Door & door) {
    if (door.closing) {
        return;
    }
    const auto wants = door.client.advance(workers_.devices(), workers_.outage());
    if (!wants) {
        door.closing = true;
        if (wants.error().code == Errc::closed) {
            log_debug("{} {}", door.client.peer(), wants.error().text);
        } else {
            log_warning("dropping {}: it {}", door.client.peer(), wants.error().text);
        }
        return;
    }
    door.wants = *wants;
    door.asked = false;
    place(door);
}

// Gives a door what it wants, if that can be had now.
void Supervisor::place(Door & door) {
    const bool needs_spare = door.wants == FrontDoor::Wants::memory ||
                             (door.wants == FrontDoor::Wants::session && door.client.token() == 0);
    if (needs_spare && !workers_.outage().empty()) {
        door.wants = FrontDoor::Wants::more;
        door.closing = !door.client.refuse(workers_.outage());
        return;
    }
    if (door.wants == FrontDoor::Wants::memory && !door.asked) {
        door.asked = workers_.ask_memory(door.client.memory_device());
        return;
    }
    if (door.wants != FrontDoor::Wants::session) {
        return;
    }
    if (door.client.token() != 0) {
        place_by_token(door);
        return;
    }
    const bool is_full = workers_.serving() >= static_cast<size_t>(options_.max_sessions);
    if (is_full && !door.told) {
        door.told = true;
        log_warning("{} waits: there are {} sessions already (--max-sessions)", door.client.peer(), workers_.serving());
    }
    WorkerProcess * worker = workers_.spare();
    if (is_full || worker == nullptr) {
        return;
    }
    ControlMessage message{.kind = ControlMessage::Kind::session,
                           .number = static_cast<uint32_t>(next_session_),
                           .prefix_size = static_cast<uint32_t>(door.client.prefix().size()),
                           .token = door.client.session_token()};
    message.set_text(door.client.peer());
    std::ranges::copy(door.client.prefix(), message.prefix);
    const UniqueFd socket = door.client.release();
    door.closing = true;
    if (!workers_.give_session(*worker, message, socket.get())) {
        log_error("{} is dropped: its worker process has died", door.client.peer());
        return;
    }
    ++next_session_;
    warn_of_shared_cores();
    log_event("Accepted client connection from {} (session {})", worker->client, worker->session);
    workers_.want_spare();
}

// Another server's worker, with the token of a link with one of our sessions; or one that comes back, with that of a
// link or a session.
void Supervisor::place_by_token(Door & door) {
    const bool resumes = door.client.first_command() == wire::command_resume;
    WorkerProcess * worker = workers_.owner(door.client.token());
    const auto waits = [&](const Door & other) {
        return other.wants == FrontDoor::Wants::session && !other.closing &&
               other.client.session_token() == door.client.token();
    };
    if (worker == nullptr && std::ranges::any_of(doors_, waits)) {
        return;  // for its session, which has no worker yet
    }
    door.closing = true;
    if (worker == nullptr) {
        log_warning("dropping {}: it wants {} session that is not here", door.client.peer(),
                    resumes ? "to resume a" : "a link with a");
        return;
    }
    ControlMessage message{.kind = ControlMessage::Kind::link,
                           .prefix_size = static_cast<uint32_t>(door.client.prefix().size()),
                           .resumes = door.client.resumes(),
                           .token = door.client.token()};
    std::ranges::copy(door.client.prefix(), message.prefix);
    const UniqueFd socket = door.client.release();
    if (resumes && worker->token == door.client.token() && !workers_.add_connection(*worker, socket.get())) {
        log_warning("dropping {}: session {} has too many connections already", door.client.peer(), worker->session);
        return;
    }
    send_control(worker->control.get(), message, socket.get());
    if (door.client.first_command() == wire::command_lifeline) {
        return;
    }
    log_event("{} {} (session {})", resumes ? "Connected again:" : "Linked with the server at", door.client.peer(),
              worker->session);
}

void Supervisor::warn_of_shared_cores() {
    const size_t threads = static_cast<size_t>(options_.worker.threads), sessions = workers_.serving();
    const size_t cores = std::thread::hardware_concurrency();
    const bool has_cpu = std::ranges::any_of(workers_.devices(), [](const ControlMessage & device) {
        return device.type == GGML_BACKEND_DEVICE_TYPE_CPU;
    });
    if (cores_are_shared_ || !has_cpu || sessions < 2 || cores == 0 || sessions * threads <= cores) {
        return;
    }
    cores_are_shared_ = true;
    log_warning("{} sessions with {} threads each share {} cores: while several compute, each is slower than its share. "
                "Use --threads {}, or --max-sessions", sessions, threads, cores, std::max<size_t>(1, cores / sessions));
}

void Supervisor::answer_memory(const ControlMessage & answer) {
    for (Door & door : doors_) {
        if (door.wants == FrontDoor::Wants::memory && !door.closing && door.client.memory_device() == answer.number) {
            door.wants = FrontDoor::Wants::more;
            door.closing = !door.client.answer_memory(answer.memory_free, answer.memory_total);
        }
    }
}

void Supervisor::reap() {
    for (;;) {
        int status = 0;
        const pid_t pid = ::waitpid(-1, &status, WNOHANG);
        if (pid <= 0) {
            return;
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
            stop_requests_ += bytes[i] == SIGTERM || bytes[i] == SIGINT ? 1 : 0;
        }
    }
    if (stop_requests_ > 0) {
        workers_.stop();
    }
    reap();
}

// Waits for something to happen, until the deadline at most, and deals with it.
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
    for (Door & door : doors_) {
        // One that waits for us is not read from, but the end of its connection is noticed.
        if (door.wants == FrontDoor::Wants::more) {
            deadline = std::min(deadline, door.client.deadline());
            watch(door.client.fd(), [this, &door] { advance(door); });
        } else {
            watch(door.client.fd(), [&door] { door.closing = true; });
            fds.back().events = 0;
        }
    }
    deadline = std::min(deadline, workers_.next_deadline());
    if (workers_.respawn_at() > Clock::now()) {
        deadline = std::min(deadline, workers_.respawn_at());
    }
    if (::poll(fds.data(), static_cast<nfds_t>(fds.size()), poll_timeout_ms(deadline)) > 0) {
        // The signals come last: reaping a worker takes away what another action refers to.
        for (size_t i = fds.size(); i-- > 0;) {
            if (fds[i].revents != 0) {
                actions[i]();
            }
        }
    }
    workers_.kill_hanging();
    for (Door & door : doors_) {
        if (!door.closing && door.wants == FrontDoor::Wants::more && door.client.deadline() <= Clock::now()) {
            door.closing = true;
            if (!door.client.is_refused()) {
                log_warning("dropping {}: no complete handshake or command within {} s", door.client.peer(),
                            FrontDoor::patience.count());
            }
        } else if (!door.closing) {
            place(door);
        }
    }
    doors_.remove_if([](const Door & door) { return door.closing; });
    if (!workers_.devices().empty()) {
        workers_.want_spare();
    }
}

void Supervisor::drain() {
    for (const net::Listener & listener : listeners_) {
        if (listener.endpoint.kind == net::Endpoint::Kind::unix_socket) {
            ::unlink(listener.endpoint.path.c_str());
        }
    }
    listeners_.clear();
    doors_.clear();
    indexer_.line.reset();  // it ends by itself
    workers_.signal_all(SIGTERM, false);
    if (workers_.serving() > 0) {
        log_info("stopping: {} sessions may go on for {} s; a second signal ends them now", workers_.serving(),
                 options_.drain.count());
    }
    const int requests = stop_requests_;
    const TimePoint end = Clock::now() + options_.drain;
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
    if (auto opened = open_listeners(); !opened) {
        return opened;
    }
    if (auto started = first_worker(); !started) {
        return started;
    }
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

Result<> run_supervisor(const ServerOptions & options) { return Supervisor(options).run(); }

}  // namespace caravan::server
