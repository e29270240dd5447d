#include "client/session/connection.h"

#include "base/config.h"
#include "base/log.h"
#include "client/session/server_group.h"
#include "net/hello.h"
#include "net/opening.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

// False if the server is not full but only starting a worker.
bool report_queue_place(const net::Endpoint & endpoint, const wire::AdmissionReply & place, seconds limit) {
    if (place.reason == wire::AdmissionReply::Reason::starting) {
        log_debug("{}: waiting for a worker process to start", endpoint.text());
        return false;
    }
    notify_user(formatted("RPC server {} is full: {}; waiting for up to {} s (GGML_RPC_TIMEOUT_S)", endpoint.text(),
                          net::describe(place), limit.count()));
    return true;
}

void log_transport(const net::Endpoint & endpoint, std::string_view kind, std::string_view why_not_rdma) {
    log_info("RPC server {}: transport {}{}", endpoint.text(), kind,
             why_not_rdma.empty() ? "" : formatted(" ({})", why_not_rdma));
}

}  // namespace

Connection::Connection(const net::Endpoint & endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport,
                       bool native, const ConnectionOptions & options)
    : history_(options.history),
      number_(history_ == nullptr ? 0 : history_->begin()),
      reply_timeout_(options.reply_timeout),
      queue_(endpoint, purpose != Purpose::queries, std::move(transport), native, options),
      launcher_(queue_, buffers_, transfers_, recorder_, options.idle_before_probe) {}

Connection::~Connection() {
    if (!queue_.failure()) {
        queue_.uploads().loading().end();
    }
    queue_.disable_loss_report();
    if (history_ != nullptr) {
        SessionRecord last = record();
        last.state = last.state == SessionRecord::State::open ? SessionRecord::State::closed : last.state;
        history_->end(std::move(last));
    }
    finish_recording();
    queue_.relays().await_sources();
    log_debug("{}: session closed, {} sends", endpoint().text(), queue_.stream().counts().sends);
}

Result<std::shared_ptr<Connection>> Connection::open(const net::Endpoint & endpoint, Purpose purpose,
                                                     const ConnectionOptions & options) {
    const bool is_session = purpose != Purpose::queries;
    bool has_waited = false;
    TimePoint report_again{};  // limits how much a server can log
    const net::Queueing queueing{.until = Clock::now() + options.reply_timeout,
                                 .on_wait = [&](const wire::AdmissionReply & place) {
                                     if (Clock::now() >= report_again &&
                                         report_queue_place(endpoint, place, options.reply_timeout)) {
                                         has_waited = true;
                                         report_again = Clock::now() + seconds(1);
                                     }
                                 }};
    auto opened = net::open_client(endpoint, is_session, Clock::now() + options.connect_timeout, queueing,
                                   {}, purpose == Purpose::inquiry);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (has_waited) {
        notify_user(formatted("RPC server {} has a free session: continuing", endpoint.text()));
    }
    const std::string_view kind = text_of(opened->transport->kind());
    log_debug("{}: connected over {} for {}", endpoint.text(), kind, is_session ? "a session" : "queries");
    std::shared_ptr<Connection> connection(
        new Connection(endpoint, purpose, std::move(opened->transport), opened->peer_is_native, options));
    connection->may_upgrade_ = opened->may_upgrade;
    connection->why_not_rdma_ = opened->why_not_rdma.text;
    if (purpose == Purpose::session) {
        connection->carry_data();
    }
    if (is_session) {
        connection->start_recording();
    }
    if (connection->history_ != nullptr) {
        connection->history_->set_live(connection);
    }
    return connection;
}

void Connection::carry_data() {
    if (!std::exchange(is_for_queries_, false)) {
        return;
    }
    if (!may_upgrade_) {
        if (net::built_with_rdma) {
            const auto lock = queue_.lock();
            log_transport(endpoint(), text_of(queue_.stream().transport_kind()), why_not_rdma_);
        }
        return;
    }
    queue_.await_upgrade_until(Clock::now() + tunable::first_upgrade_wait);
    queue_.stream().begin_upgrade([endpoint = endpoint()](const Error * why_not) {
        log_transport(endpoint, why_not == nullptr ? "rdma" : "tcp", why_not == nullptr ? "" : why_not->text);
    });
}

void Connection::start_recording() {
    if (is_native()) {
        recorder_.synchronize_clock(
            [&] { return queue_.query<uint64_t>(static_cast<wire::Command>(wire::NativeCommand::clock)); });
    }
    if (recorder_.is_traced()) {
        queue_.stream().trace_as(endpoint().text());
    }
    recorder_.opened(queue_.stream().counts());
}

void Connection::finish_recording() {
    recorder_.finish(stats(), [&](wire::SpansReply & reply) {
        auto lock = queue_.lock();
        queue_.commands().post(static_cast<wire::Command>(wire::NativeCommand::spans));
        queue_.await(lock, queue_.stream().expect(mutable_bytes(&reply, sizeof reply)));
    });
}

// Requires the lock.
SessionStats Connection::stats() {
    SessionStats out{.endpoint = endpoint().text(),
                     .dialect = is_native() ? "native" : "stock",
                     .transport = queue_.stream().transport_kind(),
                     .queue_pairs = queue_.stream().queue_pairs(),
                     .replacements = queue_.stream().replacements(),
                     .whole = {},
                     .since_load = {},
                     .weights = queue_.uploads().loading().total(),
                     .round_trip_ns = {},
                     .served_ns = {}};
    recorder_.count(out, queue_.stream().counts());
    return out;
}

SessionRecord Connection::record() {
    const auto lock = queue_.lock();
    return {number_, queue_.failure() ? SessionRecord::State::lost : SessionRecord::State::open, stats()};
}

bool Connection::failed() {
    const auto lock = queue_.lock();
    return queue_.failure().has_value();
}

void Connection::join(std::string ranks) {
    const auto lock = queue_.lock();
    launcher_.set_grouped(std::move(ranks));
    queue_.stream().set_before_sleep(ServerGroup::advance_before_wait);
}

bool Connection::has_failed_launch() {
    const auto lock = queue_.lock();
    return queue_.failure() || queue_.stream().has_launch_failure();
}

void Connection::fail_next_launch(std::string why) {
    const auto lock = queue_.lock();
    queue_.stream().set_launch_failure(std::move(why));
}

void Connection::forget_launch_failures() {
    (void)queries_.device_count();
    const auto lock = queue_.lock();
    (void)queue_.stream().take_launch_failure();
}

void Connection::synchronize() {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (!queue_.relays().empty()) {
        queue_.flush(lock);  // a launch may wait behind a relay
    }
    // Writes may stay in the batch: only a later command can observe them.
    queue_.await(lock, queue_.stream().last_ticket());
    launcher_.investigate_failure(lock);
}

void Connection::await(Stream::Ticket ticket) {
    auto lock = queue_.lock();
    queue_.await(lock, ticket);
    launcher_.investigate_failure(lock);
}

Stream::Ticket Connection::last_ticket() {
    const auto lock = queue_.lock();
    Stream::Ticket last = queue_.stream().last_ticket();
    if (queue_.prediction().has_prefetched()) {  // the program does not know of it
        --last.number;
    }
    return last;
}

}  // namespace caravan::client
