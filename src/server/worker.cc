#include "server/worker.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "base/log.h"
#include "net/handshake.h"
#include "abi/abi_check.h"
#include "server/control.h"
#include "server/devices.h"
#include "server/op_check.h"
#include "server/session.h"

namespace caravan::server {
namespace {

// After the client has gone, a session gets this long to notice by itself.
constexpr milliseconds farewell{500};

void quiet_log(ggml_log_level level, const char * text, void *) {
    static thread_local bool shown = false;
    if (level != GGML_LOG_LEVEL_CONT) {
        shown = level >= GGML_LOG_LEVEL_WARN || debug_enabled();
    }
    if (shown) {
        std::fputs(text, stderr);
    }
}

// Watches, while the main thread computes, for a client that has hung up (the computation is for nobody), for a
// supervisor that has gone, and for other servers that come to link with this session. Sleeps otherwise.
class Watcher {
public:
    Watcher(int client, int control, Devices & devices, Peers & peers)
        : client_(client), control_(control), devices_(devices), peers_(peers) {
        if (::pipe(stop_) == 0) {
            thread_ = std::thread([this] { watch(); });
        }
    }
    ~Watcher() {
        ::close(stop_[1]);
        if (thread_.joinable()) {
            thread_.join();
        }
        ::close(stop_[0]);
    }

private:
    void watch() {
#ifdef POLLRDHUP
        const short hang_up = POLLRDHUP;
#else
        const short hang_up = 0;
#endif
        pollfd fds[3] = {{client_, hang_up, 0}, {control_, POLLIN, 0}, {stop_[0], 0, 0}};
        for (;;) {
            if (::poll(fds, 3, -1) < 0) {
                continue;
            }
            if (fds[2].revents != 0) {
                return;
            }
            if (fds[1].revents != 0) {
                hear_supervisor();
            }
            if (fds[0].revents == 0) {
                continue;
            }
            // Commands that came before the end are still read (an upload may be on its way into the cache), but a
            // computation is broken off, and if even that does not help, the process ends here.
            devices_.abort_computation();
            pollfd stop{stop_[0], 0, 0};
            if (::poll(&stop, 1, static_cast<int>(farewell.count())) == 0) {
                ControlMessage ended{.kind = ControlMessage::Kind::ended};
                ended.set_text("the client left during a computation");
                send_control(control_, ended);
                ::_exit(EXIT_SUCCESS);
            }
            return;
        }
    }

    void hear_supervisor() {
        auto received = receive_control(control_);
        if (!received) {
            ::_exit(EXIT_SUCCESS);  // it has ended
        }
        if (*received && (*received)->message.kind == ControlMessage::Kind::link) {
            const ControlMessage & message = (*received)->message;
            const auto first = ConstBytes(message.prefix).first(message.prefix_size);
            peers_.arrived(message.token, std::move((*received)->attached), {first.begin(), first.end()});
        }
    }

    int client_, control_;
    Devices & devices_;
    Peers & peers_;
    int stop_[2] = {-1, -1};
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
                               .alignment = facts.alignment,
                               .max_size = facts.max_size,
                               .memory_free = facts.memory_free,
                               .memory_total = facts.memory_total};
        message.set_text(std::format("{}: {}", facts.name, facts.description));
        if (!send_control(control, message)) {
            return false;
        }
    }
    return send_control(control, {.kind = ControlMessage::Kind::ready});
}

std::string why_ended(const Error & error) {
    return error.code == Errc::closed ? "the client left" : error.text;
}

void serve(ReceivedControl given, int control, Devices & devices, cache::Weights & weights) {
    const int client = given.attached.get();
    const ConstBytes first = ConstBytes(given.message.prefix).first(given.message.prefix_size);
    auto accepted = net::open_server(std::move(given.attached), first);
    ControlMessage ended{.kind = ControlMessage::Kind::ended};
    if (!accepted) {
        ended.set_text(accepted.error().text);
    } else {
        Peers & peers = *new Peers([control](uint64_t token) {
            return send_control(control, {.kind = ControlMessage::Kind::invite, .token = token});
        });
        Session session(*accepted->transport, accepted->first_is_used ? ConstBytes() : first, devices, &weights, &peers);
        const Watcher watcher(client, control, devices, peers);
        const Error end = session.run();
        ended.set_text(session.did_work() ? std::format("{}; {}", why_ended(end), session.summary()) : why_ended(end));
    }
    send_control(control, ended);
}

}  // namespace

int run_worker(int control, const WorkerOptions & options) {
    ::signal(SIGINT, SIG_IGN);  // ^C reaches the whole process group; the supervisor decides
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files costs a cache entry, not the session
    if (!options.keep_backend_log) {
        ggml_log_set(quiet_log, nullptr);
    }
    if (auto fits = abi::check().and_then(check_op_table); !fits) {
        report_failure(control, fits.error());
        return EXIT_FAILURE;
    }
    auto devices = Devices::open(options.devices, options.threads);
    if (!devices) {
        report_failure(control, devices.error());
        return EXIT_FAILURE;
    }
    auto weights = cache::Weights::open(options.weights);
    if (!weights) {
        report_failure(control, weights.error());
        return EXIT_FAILURE;
    }
    if (!announce(control, *devices)) {
        return EXIT_FAILURE;
    }
    for (;;) {
        auto received = receive_control(control);
        if (!received || !*received) {
            return EXIT_SUCCESS;  // the supervisor has ended
        }
        const ControlMessage & message = (*received)->message;
        if (message.kind == ControlMessage::Kind::session) {
            serve(std::move(**received), control, *devices, *weights);
            // Back-ends' own clean-up is not worth waiting for: the client's memory is to be free now.
            ::_exit(EXIT_SUCCESS);
        }
        if (message.kind == ControlMessage::Kind::memory && message.number < devices->count()) {
            const DeviceFacts facts = devices->facts(message.number);
            ControlMessage answer = message;
            answer.memory_free = facts.memory_free;
            answer.memory_total = facts.memory_total;
            send_control(control, answer);
        }
    }
}

}  // namespace caravan::server
