#include "server/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <list>
#include <unordered_map>

#include "base/log.h"
#include "base/size_text.h"
#include "net/handshake.h"
#include "server/control.h"
#include "server/front_door.h"
#include "server/peers.h"
#include "server/worker_process.h"
#include "wire/stock.h"

namespace caravan::server {
namespace {

constexpr size_t max_doors = 256;         // clients without a session
constexpr seconds accept_pause{1};        // after a failure such as too many open files
constexpr seconds respawn_pause{2};       // after a worker that could not start
constexpr int max_heard = 64;             // messages from one worker in one round
constexpr seconds last_grace{2};          // between SIGTERM and SIGKILL for a worker

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
    explicit Supervisor(const ServerOptions & options) : options_(options) {}

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
    void spawn_spare();
    void replace_spare();
    void spawn_indexer();
    void round(TimePoint deadline);
    void accept_all(net::Listener & listener);
    void advance(Door & door);
    void place(Door & door);
    void place_by_token(Door & door);
    void hear(WorkerProcess & worker);
    void hear_loading(WorkerProcess & worker, const ControlMessage & message);
    void hear_serving(WorkerProcess & worker, const ControlMessage & message);
    void handle_signals();
    void reap();
    void drain();
    size_t serving() const;
    WorkerProcess * spare();

    const ServerOptions & options_;
    std::vector<net::Listener> listeners_;
    std::list<WorkerProcess> workers_;
    IndexerProcess indexer_;
    std::list<Door> doors_;
    std::vector<ControlMessage> devices_;
    std::string start_failure_;
    std::string confinement_;  // of the workers, in words
    std::unordered_map<uint64_t, pid_t> tokens_;  // of sessions and links: the worker that has them
    uint64_t next_session_ = 1;
    TimePoint respawn_at_ = TimePoint::min();
    TimePoint accept_again_ = TimePoint::min();
    int stop_requests_ = 0;
};

Result<> Supervisor::open_listeners() {
    auto listeners = net::listen_on(options_.host, options_.port);
    if (!listeners) {
        return std::unexpected(listeners.error());
    }
    listeners_ = std::move(*listeners);
    return {};
}

// The devices are known, and shown, before the first client can connect to anything that works.
Result<> Supervisor::first_worker() {
    spawn_spare();
    while (spare() == nullptr && stop_requests_ == 0) {
        if (workers_.empty()) {
            return fail(Errc::unavailable, "{}", start_failure_.empty() ? "the first worker ended" : start_failure_);
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
    for (const ControlMessage & device : devices_) {
        text += formatted("  {} ({} MiB, {} MiB free)\n", device.text, device.memory_total >> 20,
                          device.memory_free >> 20);
    }
    const bool is_tcp = listeners_.front().endpoint.kind == net::Endpoint::Kind::tcp;
    const bool may_upgrade = is_tcp && (net::own_extension().features & wire::feature_rdma) != 0;
    text += formatted("  transport      : {}{}\n", is_tcp ? "TCP" : "unix socket",
                      may_upgrade ? ", RDMA with clients that can" : "");
    text += formatted("  confinement    : {}\n", confinement_);
    const uint64_t memory = options_.worker.max_memory;
    text += formatted("  sessions       : at most {} at once{}\n", options_.max_sessions,
                      memory == MemoryBudget::no_limit ? "" : ", with at most " + size_text(memory) + " of memory each");
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    if (std::ranges::any_of(listeners_, &net::Listener::beyond_loopback)) {
        log_warning("this server listens beyond this machine, and whoever reaches it can use its devices: there is no "
                    "authentication and no encryption. Use a trusted network only");
    }
}

void Supervisor::spawn_spare() {
    const bool has_spare = std::ranges::any_of(workers_, [](const WorkerProcess & worker) {
        return worker.state == WorkerProcess::State::loading || worker.state == WorkerProcess::State::spare;
    });
    if (has_spare || stop_requests_ > 0 || Clock::now() < respawn_at_) {
        return;
    }
    auto worker = start_worker(options_.worker);
    if (!worker) {
        log_error("{}", worker.error().text);
        respawn_at_ = Clock::now() + respawn_pause;
        return;
    }
    workers_.push_back(std::move(*worker));
}

// A confined worker can follow links out of the model folders to those files only that were known when it started.
void Supervisor::replace_spare() {
    for (WorkerProcess & worker : workers_) {
        if (worker.state == WorkerProcess::State::loading || worker.state == WorkerProcess::State::spare) {
            worker.state = WorkerProcess::State::retired;
            ::kill(worker.pid, SIGTERM);
        }
    }
    for (Door & door : doors_) {
        door.asked = false;
    }
    spawn_spare();
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

size_t Supervisor::serving() const {
    return static_cast<size_t>(std::ranges::count(workers_, WorkerProcess::State::serving, &WorkerProcess::state));
}

WorkerProcess * Supervisor::spare() {
    const auto found = std::ranges::find(workers_, WorkerProcess::State::spare, &WorkerProcess::state);
    return found == workers_.end() ? nullptr : &*found;
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
    const auto wants = door.client.advance(devices_);
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
    WorkerProcess * worker = spare();
    if (door.wants == FrontDoor::Wants::memory && worker != nullptr && !door.asked) {
        door.asked = send_control(worker->control.get(), {.kind = ControlMessage::Kind::memory,
                                                          .number = door.client.memory_device()});
        worker->questions += door.asked ? 1 : 0;
        return;
    }
    if (door.wants != FrontDoor::Wants::session) {
        return;
    }
    if (door.client.token() != 0) {
        place_by_token(door);
        return;
    }
    const bool is_full = serving() >= static_cast<size_t>(options_.max_sessions);
    if (is_full && !door.told) {
        door.told = true;
        log_warning("{} waits: there are {} sessions already (--max-sessions)", door.client.peer(), serving());
    }
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
    if (message.token != 0) {
        tokens_[message.token] = worker->pid;
    }
    if (!send_control(worker->control.get(), message, socket.get())) {
        log_error("{} is dropped: its worker process has died", door.client.peer());
        return;
    }
    worker->state = WorkerProcess::State::serving;
    worker->session = next_session_++;
    worker->client = door.client.peer();
    std::fprintf(stdout, "Accepted client connection from %s (session %llu)\n", worker->client.c_str(),
                 static_cast<unsigned long long>(worker->session));
    std::fflush(stdout);
    spawn_spare();
}

// Another server's worker, with the token of a link with one of our sessions; or one that comes back, with that of a
// link or a session.
void Supervisor::place_by_token(Door & door) {
    door.closing = true;
    const bool resumes = door.client.first_command() == wire::command_resume;
    const auto owner = tokens_.find(door.client.token());
    const auto worker = owner == tokens_.end() ? workers_.end()
                                               : std::ranges::find(workers_, owner->second, &WorkerProcess::pid);
    if (worker == workers_.end() || !worker->control) {
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
    send_control(worker->control.get(), message, socket.get());
    if (door.client.first_command() == wire::command_lifeline) {
        return;
    }
    std::fprintf(stdout, "%s %s (session %llu)\n", resumes ? "Connected again:" : "Linked with the server at",
                 door.client.peer().c_str(), static_cast<unsigned long long>(worker->session));
    std::fflush(stdout);
}

// A worker that serves a session may have fallen to its client: it is believed about itself, and only what it may say.
void Supervisor::hear(WorkerProcess & worker) {
    for (int heard = 0; heard < max_heard; ++heard) {
        auto received = receive_control(worker.control.get());
        if (!received) {
            worker.control.reset();  // reap() says the rest
            return;
        }
        if (!*received) {
            return;
        }
        const ControlMessage & message = (*received)->message;
        if (worker.state == WorkerProcess::State::retired) {
            continue;
        }
        if (worker.state == WorkerProcess::State::loading) {
            hear_loading(worker, message);
        } else {
            hear_serving(worker, message);
        }
    }
}

void Supervisor::hear_loading(WorkerProcess & worker, const ControlMessage & message) {
    switch (message.kind) {
        case ControlMessage::Kind::confined:
            if (!confinement_.empty() && confinement_ != message.text) {
                log_warning("a worker process is not confined as those before it: {}", message.text);
            }
            confinement_ = message.text;
            break;
        case ControlMessage::Kind::device:
            devices_.resize(message.count);
            devices_[message.number] = message;
            break;
        case ControlMessage::Kind::ready: worker.state = WorkerProcess::State::spare; break;
        case ControlMessage::Kind::failed: start_failure_ = message.text; break;
        default: break;
    }
}

void Supervisor::hear_serving(WorkerProcess & worker, const ControlMessage & message) {
    switch (message.kind) {
        case ControlMessage::Kind::ended:
            if (worker.state == WorkerProcess::State::serving && !worker.said_goodbye) {
                worker.said_goodbye = true;
                std::fprintf(stdout, "Client connection closed (session %llu): %s\n",
                             static_cast<unsigned long long>(worker.session), message.text);
                std::fflush(stdout);
            }
            break;
        case ControlMessage::Kind::memory:
            if (worker.questions == 0) {
                break;
            }
            --worker.questions;
            for (Door & door : doors_) {
                if (door.wants == FrontDoor::Wants::memory && !door.closing &&
                    door.client.memory_device() == message.number) {
                    door.wants = FrontDoor::Wants::more;
                    if (!door.client.answer_memory(message.memory_free, message.memory_total)) {
                        door.closing = true;
                    }
                }
            }
            break;
        case ControlMessage::Kind::invite:
            if (worker.invitations < Peers::max_links) {
                ++worker.invitations;
                tokens_.try_emplace(message.token, worker.pid);
            }
            break;
        default: break;
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
            replace_spare();
            continue;
        }
        const auto worker = std::ranges::find(workers_, pid, &WorkerProcess::pid);
        if (worker == workers_.end()) {
            continue;
        }
        if (worker->control) {
            hear(*worker);  // its last words
        }
        const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (worker->state == WorkerProcess::State::serving) {
            if (!clean || !worker->said_goodbye) {
                log_error("session {} with {} ended: its worker process {} died of {}; other sessions are not affected",
                          worker->session, worker->client, pid, describe_exit(status));
            }
        } else if (worker->state != WorkerProcess::State::retired && stop_requests_ == 0) {
            if (start_failure_.empty()) {
                start_failure_ = formatted("a worker process ended while it started: {}", describe_exit(status));
            }
            if (!devices_.empty()) {
                log_error("{}; trying again in {} s", start_failure_, respawn_pause.count());
                start_failure_.clear();
            }
            respawn_at_ = Clock::now() + respawn_pause;
            for (Door & door : doors_) {
                door.asked = false;
            }
        }
        std::erase_if(tokens_, [&](const auto & token) { return token.second == pid; });
        workers_.erase(worker);
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
    for (WorkerProcess & worker : workers_) {
        if (worker.control) {
            watch(worker.control.get(), [this, &worker] { hear(worker); });
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
    if (respawn_at_ > Clock::now()) {
        deadline = std::min(deadline, respawn_at_);
    }
    if (::poll(fds.data(), static_cast<nfds_t>(fds.size()), poll_timeout_ms(deadline)) > 0) {
        // The signals come last: reaping a worker takes away what another action refers to.
        for (size_t i = fds.size(); i-- > 0;) {
            if (fds[i].revents != 0) {
                actions[i]();
            }
        }
    }
    for (Door & door : doors_) {
        if (!door.closing && door.wants == FrontDoor::Wants::more && door.client.deadline() <= Clock::now()) {
            log_warning("dropping {}: no complete handshake or command within {} s", door.client.peer(),
                        FrontDoor::patience.count());
            door.closing = true;
        } else if (!door.closing) {
            place(door);
        }
    }
    doors_.remove_if([](const Door & door) { return door.closing; });
    if (!devices_.empty()) {
        spawn_spare();
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
    for (const WorkerProcess & worker : workers_) {
        if (worker.state != WorkerProcess::State::serving) {
            ::kill(worker.pid, SIGTERM);
        }
    }
    if (serving() > 0) {
        log_info("stopping: {} sessions may go on for {} s; a second signal ends them now", serving(),
                 options_.drain.count());
    }
    const int requests = stop_requests_;
    const TimePoint end = Clock::now() + options_.drain;
    while (!workers_.empty() && stop_requests_ == requests && Clock::now() < end) {
        round(end);
    }
    for (const int signal : {SIGTERM, SIGKILL}) {
        for (const WorkerProcess & worker : workers_) {
            ::kill(worker.pid, signal);
        }
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
    return {};
}

}  // namespace

Result<> run_supervisor(const ServerOptions & options) { return Supervisor(options).run(); }

}  // namespace caravan::server
