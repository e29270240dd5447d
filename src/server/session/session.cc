#include "server/session/session.h"

#include <utility>

#include "base/log.h"
#include "tunables/session.h"
#include "wire/extension.h"

namespace caravan::server {

Session::Session(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * weights, Links * links,
                 uint64_t max_memory, MachineMemory * machine)
    : context_(transport, already, devices, weights, links, max_memory, machine), native_(context_), stock_(context_) {
    context_.memory.on_host_change = [this] { report_host_memory(); };
    context_.on_free = [this](uint64_t buffer) {
        native_.drop_graphs_using(buffer);
        stock_.drop_graphs_using(buffer);
    };
}

Error Session::run() {
    for (;;) {
        if (auto served = serve_one(); !served) {
            (void)context_.runs.synchronize();
            if (context_.replies.is_native() && served.error().code != Errc::closed && served.error().code != Errc::reset) {
                (void)context_.replies.send_text(wire::ReplyKind::ended, served.error().text);
            }
            return std::move(served.error());
        }
    }
}

SessionCounters Session::counters() const {
    const auto in_us = [](std::chrono::nanoseconds time) {
        return static_cast<uint64_t>(std::chrono::duration_cast<microseconds>(time).count());
    };
    return {.graphs_built = context_.runs.built(),
            .launches = context_.runs.launches(),
            .bytes_received = context_.in.bytes_taken(),
            .bytes_sent = context_.replies.bytes_sent(),
            .peak_buffer_bytes = context_.buffers.peak_bytes(),
            .weight_bytes_received = context_.io.weights_received(),
            .weight_bytes_from_cache = context_.lookups.bytes_from_cache(),
            .weight_bytes_from_models = context_.lookups.bytes_from_models(),
            .duration_us = in_us(Clock::now() - begin_),
            .computing_us = in_us(context_.runs.busy())};
}

void Session::limit_silence(seconds limit) {
    context_.in.limit_silence(limit);
    if (context_.links != nullptr) {
        context_.links->limit_silence(limit);
    }
}

// Nothing else shows that a client or its network was stopped.
void Session::log_silence(TimePoint since) const {
    const auto silence = Clock::now() - since;
    if (silence >= tunable::min_logged_silence) {
        log_info("the client sent no command for {:.1f} s", std::chrono::duration<double>(silence).count());
    }
}

Result<> Session::serve_one() {
    if (context_.in.buffered_size() < sizeof(wire::RequestHeader)) {
        if (auto waited = context_.lookups.reply_to_finds(); !waited) {
            return waited;
        }
    }
    const bool waits = context_.in.buffered_size() < sizeof(wire::RequestHeader);
    const TimePoint since = waits ? Clock::now() : TimePoint();
    const auto bytes = context_.in.peek(sizeof(wire::RequestHeader), true);
    if (waits) {
        log_silence(since);
    }
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    if (const auto report = std::exchange(on_first_command, {})) {
        report();
    }
    const auto header = load<wire::RequestHeader>(bytes->data());
    const wire::Command command = header.command;
    const uint64_t size = header.size;
    Dialect & dialect = dialect_of(command);
    const wire::PayloadBounds bounds = dialect.bounds_of(command);
    const char * name = dialect.name_of(command);
    if (wire::is_native(command)) {
        if (!accepts_native) {
            return fail(Errc::protocol, "{}: the client has not announced the native dialect", name);
        }
        context_.replies.set_native();  // before the checks, so that the client receives the reason of an error
    }
    if (const auto offer = wire::form_of_rdma_offer(command); offer.name != nullptr) {
        return fail(Errc::protocol, "{}: {}", offer.name,
                    size == offer.size ? std::string("only before a session, and only if the server uses RDMA")
                                       : formatted("invalid payload size of {} bytes, instead of {}", size, offer.size));
    }
    if (bounds.low > bounds.high) {
        return fail(Errc::protocol, "command {} does not exist", static_cast<unsigned>(command));
    }
    if (size < bounds.low || size > bounds.high) {
        return fail(Errc::protocol, "{}: invalid payload size of {} bytes", name, size);
    }
    context_.in.take(sizeof header);
    if (auto waited = dialect.may_overtake_finds(command) ? Result<>() : context_.lookups.reply_to_finds(); !waited) {
        return waited;
    }
    const TimePoint begin = context_.spans.is_recording() ? Clock::now() : TimePoint();
    command_.store(name, std::memory_order_relaxed);
    auto done = dialect.serve(command, size).and_then([&] { return finish_launch(); });
    command_.store(nullptr, std::memory_order_relaxed);
    report_host_memory();
    if (begin != TimePoint()) {
        context_.spans.record(static_cast<uint8_t>(command), begin, Clock::now());
    }
    if (!done && done.error().code != Errc::closed && done.error().code != Errc::reset) {
        return fail(done.error().code, "{}: {}", name, done.error().text);
    }
    return done;
}

// Only a wait shows when an asynchronous device is done, so its time would otherwise last until a later command. While the only
// device computes, hardly any command could be served; for one of several a thread waits. A read that follows at once is served
// first: it shares the wait.
Result<> Session::finish_launch() {
    const auto follow_up = context_.spans.is_recording() ? tunable::launch_follow_up_recorded : tunable::launch_follow_up;
    if (!context_.runs.is_unattended() || context_.in.buffered_size() > 0 || context_.in.arrives_within(follow_up)) {
        return {};
    }
    return context_.replies.report_failure(context_.runs.attend());
}

Dialect & Session::dialect_of(wire::Command command) {
    if (wire::is_native(command)) {
        return native_;
    }
    return stock_;
}

// Reports the machine memory that the client makes the session use in addition to buffers.
void Session::report_host_memory() {
    if (context_.machine != nullptr) {
        const size_t backlog = context_.links == nullptr ? 0 : context_.links->backlog();
        context_.machine->set_other_memory(context_.memory.host_bytes() + backlog);
    }
}

}  // namespace caravan::server
