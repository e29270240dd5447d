#include "server/worker/worker.h"

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "abi/abi_check.h"
#include "base/config.h"
#include "base/log.h"
#include "net/hello.h"
#include "platform/limits.h"
#include "platform/pages.h"
#include "platform/poll.h"
#include "platform/process_control.h"
#include "platform/shared_memory.h"
#include "server/confine/confinement.h"
#include "server/confine/driver_caches.h"
#include "server/graph/lent_memory.h"
#include "server/ops/op_check.h"
#include "server/worker/serving.h"
#include "server/worker/warm_ups.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

// Whether graphs of an earlier session are being computed: their failures concern nobody.
std::atomic<bool> is_warming_up = false;

// Logs ggml's warnings and errors, or everything when debugging. ggml passes lines in pieces.
void quiet_log(ggml_log_level level, const char * text, void *) {
    static thread_local bool shown = false;
    static thread_local std::string line;
    if (level != GGML_LOG_LEVEL_CONT) {
        shown = (level >= GGML_LOG_LEVEL_WARN && !is_warming_up) || debug_enabled();
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
                               .has_unified_memory = facts.has_unified_memory,
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
    std::ifstream file("/proc/self/statm");
    uint64_t pages[6] = {};  // the sixth: data and stack
    for (uint64_t & number : pages) {
        file >> number;
    }
    uint64_t limit = pages[5] * page_size() + tunable::computing_memory;
    if (!file || !devices.are_cpus() || __builtin_add_overflow(limit, options.max_memory, &limit)) {
        return;
    }
    platform::limit_data(limit);
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

bool has_message(int control) {
    platform::Watch watch{control, platform::readable, 0};
    return platform::poll({&watch, 1}, 0).value_or(1) > 0;
}

// What a worker does until its session begins, and then the session.
class SpareWorker {
public:
    SpareWorker(int control, const WorkerOptions & options, Devices & devices, cache::Weights & weights)
        : control_(control), options_(options), devices_(devices), weights_(weights), warm_ups_(devices) {}

    // Returns when the session is over or the supervisor has exited.
    void run() {
        for (;;) {
            if (warm_ups_.has_next() && !has_message(control_)) {
                compute_next();
                continue;
            }
            auto received = receive_control(control_, Descriptors::accept_one);
            if (!received || !*received) {
                return;
            }
            if ((*received)->message.kind == ControlMessage::Kind::session) {
                warm_ups_.stop();
                serve(std::move(**received), control_, options_, devices_, weights_, graphs_);
                return;
            }
            handle(std::move(**received));
        }
    }

private:
    void compute_next() {
        is_warming_up = true;
        warm_ups_.compute_next();
        is_warming_up = false;
        if (!warm_ups_.has_next()) {
            reply_warmed();
        }
    }
    void reply_warmed() { send_control(control_, {.kind = ControlMessage::Kind::warmed, .number = warm_number_}); }

    void handle(ReceivedControl received) {
        const ControlMessage & message = received.message;
        switch (message.kind) {
            case ControlMessage::Kind::memory: report_memory(message); break;
            case ControlMessage::Kind::keep: graphs_ = std::move(received.attached); break;
            case ControlMessage::Kind::warm:
                warm_number_ = message.number;
                received.attached ? warm_ups_.begin(received.attached.get(), message.memory_total) : warm_ups_.stop();
                if (!warm_ups_.has_next()) {
                    reply_warmed();
                }
                break;
            default: break;
        }
    }

    void report_memory(const ControlMessage & query) {
        if (query.number >= devices_.count()) {
            return;
        }
        const auto memory = lent_memory(devices_.memory(query.memory_free), query.number, options_.max_memory,
                                        options_.max_memory);
        ControlMessage reply = query;
        reply.memory_free = memory.free;
        reply.memory_total = memory.total;
        send_control(control_, reply);
    }

    const int control_;
    const WorkerOptions & options_;
    Devices & devices_;
    cache::Weights & weights_;
    UniqueFd graphs_;  // memory for those of its session
    WarmUps warm_ups_;
    uint32_t warm_number_ = 0;  // of the last request
};

}  // namespace

int run_worker(int control, const WorkerOptions & options) {
    platform::close_inherited(control);  // a compromised worker cannot use them
    using platform::Condition;
    // ^C reaches the whole process group; the supervisor decides. A process opens a blob for writing while cache::Reader holds
    // a lease. A file size limit must fail the write, not end the session.
    platform::ignore({Condition::interrupt, Condition::broken_pipe, Condition::broken_lease, Condition::file_too_long});
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
    std::string text = options.devices.empty() ? Devices::duplicates() : "";
    if (const std::string warning = make_driver_caches(devices->backends()); !warning.empty()) {
        text += (text.empty() ? "" : "; ") + warning;
    }
    if (!text.empty()) {
        ControlMessage note{.kind = ControlMessage::Kind::note};
        note.set_text(text);
        send_control(control, note);
    }
    limit_memory(options, *devices);
    if (transport_mode() != TransportMode::tcp) {
        net::why_no_rdma();  // loads libibverbs while all files are readable
    }
    platform::boot_id();  // reads it
    ControlMessage cache{.kind = ControlMessage::Kind::cache};
    cache.set_text(weights.problem());
    cache.count = weights.has_store() ? 1 : 0;
    if (!send_control(control, cache) || !confine_worker(control, options, *devices, weights) ||
        !announce(control, *devices)) {
        return EXIT_FAILURE;
    }
    SpareWorker(control, options, *devices, weights).run();
    // Skips the clean-up of the back-ends, so that the session's memory is free immediately.
    platform::end_process(EXIT_SUCCESS);
}

}  // namespace caravan::server
