#include "server/worker/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>
#include <vector>

#include "base/config.h"
#include "base/log.h"
#include "base/pages.h"
#include "net/hello.h"
#include "net/server_handshake.h"
#include "net/socket.h"
#include "abi/abi_check.h"
#include "server/confine/confinement.h"
#include "server/ipc/control.h"
#include "server/graph/devices.h"
#include "server/graph/lent_memory.h"
#include "server/ipc/machine_memory.h"
#include "server/ops/op_check.h"
#include "server/ipc/server_log.h"
#include "server/session/session.h"

namespace caravan::server {
namespace {

// The supervisor registers as many tokens as a session may issue.
static_assert(Peers::max_links == max_invitations);
static_assert(WorkerOptions::no_limit == MemoryBudget::no_limit);

// The time that a session has to end by itself after the client has left.
constexpr milliseconds farewell{500};

// Logs ggml's warnings and errors, or everything when debugging. ggml passes lines in pieces.
void quiet_log(ggml_log_level level, const char * text, void *) {
    static thread_local bool shown = false;
    static thread_local std::string line;
    if (level != GGML_LOG_LEVEL_CONT) {
        shown = level >= GGML_LOG_LEVEL_WARN || debug_enabled();
    }
    if (!shown) {
        return;
    }
    line += text;
    for (size_t end = 0; (end = line.find('\n')) != std::string::npos; line.erase(0, end + 1)) {
        log_info("{}", std::string_view(line).substr(0, end));
    }
    if (line.size() > 4096) {
        log_info("{}", std::exchange(line, {}));
    }
}

// A thread that watches, while the main thread computes, whether the client has left (the computation is then aborted) or the
// supervisor has exited, and accepts connections for this session: links of other servers, and replacements of broken
// connections.
class Watcher {
public:
    // `client`: a duplicate of the client's socket. `token`: resumes the session; 0: it cannot be resumed.
    Watcher(UniqueFd client, int control, uint64_t token, Devices & devices, Peers & peers, MachineMemory & machine,
            Session & session)
        : client_(std::move(client)),
          control_(control),
          token_(token),
          devices_(devices),
          peers_(peers),
          machine_(machine),
          session_(session) {
        if (::pipe(stop_) == 0 && ::pipe(resumed_) == 0) {
            thread_ = std::thread([this] { watch(); });
        }
        peers_.when_resumed([this](uint64_t resumed, UniqueFd connection) {
            if (resumed == token_) {
                std::lock_guard lock(mutex_);
                next_client_ = std::move(connection);
                (void)!::write(resumed_[1], "", 1);
            }
        });
    }
    ~Watcher() {
        peers_.when_resumed({});
        ::close(stop_[1]);
        if (thread_.joinable()) {
            thread_.join();
        }
        ::close(stop_[0]);
        ::close(resumed_[0]);
        ::close(resumed_[1]);
    }

private:
    // A connection whose close shows that a process has exited: this session's client, or a server with a link.
    struct Lifeline {
        uint64_t token;
        UniqueFd socket;
    };

    void watch() {
#ifdef POLLRDHUP
        const short hang_up = POLLRDHUP;
#else
        const short hang_up = 0;
#endif
        for (std::vector<pollfd> fds;;) {
            fds = {{client_.get(), hang_up, 0}, {control_, POLLIN, 0}, {stop_[0], 0, 0}, {resumed_[0], POLLIN, 0}};
            const size_t others = fds.size();
            for (const Lifeline & lifeline : lifelines_) {
                fds.push_back({lifeline.socket.get(), hang_up, 0});
            }
            if (::poll(fds.data(), fds.size(), -1) < 0) {
                continue;
            }
            if (fds[2].revents != 0) {
                return;
            }
            if (fds[1].revents != 0) {
                hear_supervisor();
                continue;  // lifelines_ may have changed
            }
            if (fds[3].revents != 0) {
                char byte = 0;
                (void)!::read(resumed_[0], &byte, 1);
                std::lock_guard lock(mutex_);
                if (next_client_) {
                    client_ = std::move(next_client_);
                }
                continue;
            }
            for (size_t i = lifelines_.size(); i-- > 0;) {
                if (const short events = fds[others + i].revents; events != 0) {
                    // A Unix socket hangs up in both directions when its peer closes it. A broken connection has an error,
                    // which no other thread reads from this socket.
                    lifeline_ended(i, (events & (POLLERR | POLLNVAL)) == 0);
                }
            }
            if (has_ended_ && !client_) {
                fds[0].revents = hang_up;  // its connection had already broken
            }
            if (fds[0].revents == 0) {
                continue;
            }
            const bool was_cut = (fds[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0 ||
                                 std::ranges::contains(lifelines_, token_, &Lifeline::token);
            if (token_ != 0 && !has_ended_ && was_cut) {
                client_.reset();  // the session may be resumed
                continue;
            }
            // The session still reads commands sent before the close (an upload may be on its way into the cache), but the
            // computation is aborted. If the session does not end in time, the process exits here.
            devices_.abort_computation();
            pollfd stop{stop_[0], 0, 0};
            if (::poll(&stop, 1, static_cast<int>(farewell.count())) == 0) {
                ControlMessage ended{.kind = ControlMessage::Kind::ended};
                const char * command = session_.command();
                ended.set_text(command == nullptr ? std::string("the client left")
                                                  : formatted("the client left; {} was broken off", command));
                ended.count = unused_session_lines();
                send_control(control_, ended);
                ::_exit(EXIT_SUCCESS);
            }
            return;
        }
    }

    void hear_supervisor() {
        auto received = receive_control(control_, Descriptors::accept_one);
        if (!received) {
            ::_exit(EXIT_SUCCESS);  // the supervisor has exited
        }
        if (*received && (*received)->message.kind == ControlMessage::Kind::claim) {
            machine_.answered((*received)->message);
        } else if (*received && (*received)->message.kind == ControlMessage::Kind::contend) {
            session_.limit_silence(seconds((*received)->message.number));
        } else if (*received && (*received)->message.kind == ControlMessage::Kind::link) {
            const ControlMessage & message = (*received)->message;
            const auto first = ConstBytes(message.prefix).first(message.prefix_size);
            UniqueFd socket = std::move((*received)->attached);
            wire::RequestHeader header{};
            std::memcpy(&header, first.data(), std::min(first.size(), sizeof header));
            if (header.command == wire::command_lifeline) {
                take_lifeline({message.token, std::move(socket)});
                return;
            }
            peers_.accept(message.token, std::move(socket), {first.begin(), first.end()}, message.resumes != 0);
        }
    }

    // Replaces an earlier lifeline of the same token. If its session or link does not exist yet, the peer opens it again.
    void take_lifeline(Lifeline lifeline) {
        auto * const watched = peers_.resumable(lifeline.token);
        if (watched == nullptr) {
            return;
        }
        std::erase_if(lifelines_, [&](const Lifeline & other) { return other.token == lifeline.token; });
        lifelines_.push_back(std::move(lifeline));
        watched->watch_peer(true);
    }

    void lifeline_ended(size_t index, bool closed) {
        const uint64_t token = lifelines_[index].token;
        lifelines_.erase(lifelines_.begin() + static_cast<ptrdiff_t>(index));
        auto * const watched = peers_.resumable(token);
        watched->watch_peer(false);
        if (closed) {
            watched->peer_ended();
            has_ended_ = has_ended_ || token == token_;
        }
    }

    UniqueFd client_;
    std::vector<Lifeline> lifelines_;
    bool has_ended_ = false;  // the client's process has exited, as its lifeline shows
    const int control_;
    const uint64_t token_;
    Devices & devices_;
    Peers & peers_;
    MachineMemory & machine_;
    Session & session_;
    int stop_[2] = {-1, -1}, resumed_[2] = {-1, -1};
    std::mutex mutex_;
    UniqueFd next_client_;  // guarded by mutex_: duplicate of the socket that resumed the session
    std::thread thread_;
};

void report_failure(int control, const Error & error) {
    ControlMessage message{.kind = ControlMessage::Kind::failed};
    message.set_text(error.text);
    send_control(control, message);
}

bool announce(int control, const Devices & devices) {
    for (uint32_t i = 0; i < devices.count(); ++i) {
        const DeviceFacts facts = devices.facts(i);
        ControlMessage message{.kind = ControlMessage::Kind::device,
                               .number = i,
                               .count = devices.count(),
                               .type = facts.type,
                               .is_cpu = facts.type == GGML_BACKEND_DEVICE_TYPE_CPU,
                               .alignment = facts.alignment,
                               .max_size = facts.max_size,
                               .memory_free = facts.memory_free,
                               .memory_total = facts.memory_total};
        message.set_text(formatted("{}: {}", facts.name, facts.description));
        if (!send_control(control, message)) {
            return false;
        }
    }
    return send_control(control, {.kind = ControlMessage::Kind::ready});
}

// Sets RLIMIT_DATA, which includes memory that ggml allocates itself. Only with CPU devices: the mappings of other drivers do
// not measure their use of memory.
void limit_memory(const WorkerOptions & options, const Devices & devices) {
    constexpr uint64_t for_computing = uint64_t{1} << 30;
    std::ifstream file("/proc/self/statm");
    uint64_t pages[6] = {};  // the sixth: data and stack
    for (uint64_t & number : pages) {
        file >> number;
    }
    uint64_t limit = pages[5] * page_size() + for_computing;
    if (!file || !devices.are_cpus() || __builtin_add_overflow(limit, options.max_memory, &limit)) {
        return;
    }
    const rlimit data{limit, limit};
    ::setrlimit(RLIMIT_DATA, &data);
}

bool confine_worker(int control, const WorkerOptions & options, const Devices & devices, cache::Weights & weights) {
    ControlMessage message{.kind = ControlMessage::Kind::confined};
    if (!options.confined) {
        message.set_text("none (--no-confinement)");
        return send_control(control, message);
    }
    const Confined confined = confine(worker_confinement(devices.are_cpus(), weight_rules(options.weights, weights)));
    // With other devices, the files that drivers write may include the store.
    if (confined.is_sealed && devices.are_cpus()) {
        weights.seal();
    }
    message.set_text(confined.text);
    return send_control(control, message);
}

// Closes inherited descriptors and the terminal's input, so that a compromised worker cannot use them.
void close_inherited(int control) {
#ifdef __linux__
    const auto first = static_cast<unsigned>(STDERR_FILENO + 1), kept = static_cast<unsigned>(control);
    if (kept > first) {
        ::syscall(SYS_close_range, first, kept - 1, 0);
    }
    ::syscall(SYS_close_range, kept + 1, ~0u, 0);
#endif
    if (const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC)); nothing) {
        ::dup2(nothing.get(), STDIN_FILENO);
    }
}

std::string why_ended(const Error & error) {
    return error.code == Errc::closed || error.code == Errc::reset ? "the client left" : error.text;
}

void serve(ReceivedControl given, int control, const WorkerOptions & options, Devices & devices,
           cache::Weights & weights) {
    begin_session_log(given.message.number, given.message.count);
    UniqueFd client(::dup(given.attached.get()));
    net::Networks links = options.links.value_or(net::Networks());
    if (options.local_links && net::is_local_peer(client.get())) {
        links.add(net::Networks::loopback());  // for clients elsewhere, loopback is another machine
    }
    const uint64_t token = given.message.token;
    const ConstBytes first = ConstBytes(given.message.prefix).first(given.message.prefix_size);
    auto accepted = net::open_server(std::move(given.attached), first, token != 0);
    ControlMessage ended{.kind = ControlMessage::Kind::ended};
    if (!accepted) {
        ended.set_text(accepted.error().text);
    } else {
        Peers & peers = *new Peers([control](uint64_t link) {
            return send_control(control, {.kind = ControlMessage::Kind::invite, .token = link});
        }, options.session_grace, std::move(links));
        // Closes the links after the watcher has ended, and before the transport is destroyed.
        const std::unique_ptr<Peers, void (*)(Peers *)> closing(&peers, [](Peers * open) { open->close(); });
        if (accepted->in_records) {
            auto resumable = std::make_unique<net::ResumableTransport>(
                std::move(accepted->transport), net::ResumableTransport::Options{.name = given.message.text,
                                                                                 .grace = options.session_grace,
                                                                                 .reconnect = {}});
            peers.register_resumable(token, *resumable);
            accepted->transport = std::move(resumable);
        }
        MachineMemory machine([control](const ControlMessage & claim) { return send_control(control, claim); });
        Session session(*accepted->transport, accepted->first, devices, &weights, &peers, options.max_memory, &machine);
        const Watcher watcher(std::move(client), control, accepted->in_records ? token : 0, devices, peers, machine,
                              session);
        const Error end = session.run();
        ended.set_text(session.did_work() ? formatted("{}; {}", why_ended(end), session.summary()) : why_ended(end));
    }
    end_server_log();
    ended.count = unused_session_lines();
    send_control(control, ended);
}

}  // namespace

int run_worker(int control, const WorkerOptions & options) {
    close_inherited(control);
    ::signal(SIGINT, SIG_IGN);  // ^C reaches the whole process group; the supervisor decides
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGIO, SIG_IGN);    // a process opens a blob for writing while cache::Reader holds a lease
    ::signal(SIGXFSZ, SIG_IGN);  // a file size limit must fail the write, not end the session
    ggml_log_set(quiet_log, nullptr);
    if (auto fits = abi::check().and_then(check_op_table); !fits) {
        report_failure(control, fits.error());
        return EXIT_FAILURE;
    }
    auto devices = Devices::open(options.devices, options.threads);
    if (!devices) {
        report_failure(control, devices.error());
        return EXIT_FAILURE;
    }
    cache::Weights weights(options.weights);
    if (const std::string duplicates = options.devices.empty() ? Devices::duplicates() : ""; !duplicates.empty()) {
        ControlMessage note{.kind = ControlMessage::Kind::note};
        note.set_text(duplicates);
        send_control(control, note);
    }
    limit_memory(options, *devices);
    if (transport_mode() != TransportMode::tcp) {
        net::why_no_rdma();  // loads libibverbs while all files are readable
    }
    ControlMessage cache{.kind = ControlMessage::Kind::cache};
    cache.set_text(weights.problem());
    cache.count = weights.has_store() ? 1 : 0;
    if (!send_control(control, cache) || !confine_worker(control, options, *devices, weights) ||
        !announce(control, *devices)) {
        return EXIT_FAILURE;
    }
    for (;;) {
        auto received = receive_control(control, Descriptors::accept_one);
        if (!received || !*received) {
            ::_exit(EXIT_SUCCESS);  // the supervisor has exited; _exit() as below
        }
        const ControlMessage & message = (*received)->message;
        if (message.kind == ControlMessage::Kind::session) {
            serve(std::move(**received), control, options, *devices, weights);
            // Skips the clean-up of the back-ends, so that the session's memory is free immediately.
            ::_exit(EXIT_SUCCESS);
        }
        if (message.kind == ControlMessage::Kind::memory && message.number < devices->count()) {
            const auto memory = lent_memory(devices->memory(message.memory_free), message.number, options.max_memory,
                                            options.max_memory);
            ControlMessage answer = message;
            answer.memory_free = memory.free;
            answer.memory_total = memory.total;
            send_control(control, answer);
        }
    }
}

}  // namespace caravan::server
