#include "client/session/command_stream.h"

#include <cstring>

#include "client/session/reply_check.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

std::unique_ptr<net::Transport> watched(std::unique_ptr<net::Transport> transport, std::shared_ptr<LossReport> loss_report) {
    transport->when_lost([loss_report = std::move(loss_report)](const Error & error) { loss_report->report(error); });
    return transport;
}

}  // namespace

CommandStream::CommandStream(net::Endpoint endpoint, bool is_session, std::unique_ptr<net::Transport> transport, bool native,
                             const ConnectionOptions & options)
    : endpoint_(std::move(endpoint)),
      is_session_(is_session),
      loss_report_(std::make_shared<LossReport>(endpoint_, is_session, options.history)),
      stream_(watched(std::move(transport), loss_report_), options.reply_timeout, net::Polling::of_environment()) {
    if (is_session) {
        stream_.log_stalls(endpoint_.text(), tunable::stall_report_after);
    }
    if (native) {
        auto commands = make_native_commands(stream_);
        native_ = commands.get();
        commands_ = std::move(commands);
    } else {
        commands_ = make_stock_commands(stream_);
    }
}

void CommandStream::append_write(const wire::Region & region, uint64_t offset, ConstBytes data, bool keep) {
    commands_->write(region, offset, data.size(), keep);
    std::memcpy(stream_.append(data.size()).data(), data.data(), data.size());
}

void CommandStream::write(Lock & lock, const wire::Region & region, uint64_t offset, ConstBytes data, bool keep) {
    if (data.size() <= tunable::copy_limit) {
        append_write(region, offset, data, keep);
        flush_if_large(lock);
        return;
    }
    // Before the header: this may release the lock, and the payload must follow its header.
    relays_.fill_before(lock, UINT64_MAX);
    commands_->write(region, offset, data.size(), keep);
    if (!stream_.send(lock, data)) {
        report_failure();
    }
}

void CommandStream::flush_if_large(Lock & lock) {
    if (stream_.unsent() >= tunable::batch_limit) {
        flush(lock);
    }
}

void CommandStream::flush(Lock & lock) {
    const uint64_t position = stream_.position();
    relays_.fill_before(lock, position);
    if (!stream_.flush(lock, position)) {
        report_failure();
    }
}

void CommandStream::await(Lock & lock, Stream::Ticket ticket) {
    if (ticket.number >= stream_.last_ticket().number) {
        discard_prefetched();
    }
    prediction_.record_await(ticket.number);
    relays_.fill_before(lock, ticket.position);
    if (!stream_.await(lock, ticket)) {
        report_failure();
    }
}

Result<> CommandStream::await_all(Lock & lock) {
    await(lock, stream_.last_ticket());
    if (failure()) {
        return fail(failure()->code, "{}: {}", endpoint_.text(), failure()->text);
    }
    return {};
}

void CommandStream::discard_prefetched() {
    if (prediction_.has_prefetched()) {
        prediction_.discard_prefetched();
        stream_.discard();
    }
}

bool CommandStream::decode_flag(uint8_t reply) {
    if (auto sound = check_flag(reply); !sound) {
        close(std::move(sound.error()));
        return false;
    }
    return reply != 0;
}

void CommandStream::close(Error error) {
    stream_.close(std::move(error));
    report_failure();
}

void CommandStream::report_failure() {
    if (failure() && is_session_) {
        any_failed_ = true;
        loss_report_->report(*failure());
    }
}

}  // namespace caravan::client
