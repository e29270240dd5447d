#include "net/resume/resumable_transport.h"

#include <algorithm>
#include <array>
#include <utility>

namespace caravan::net {

ResumableTransport::ResumableTransport(std::unique_ptr<Transport> transport, Options options)
    : options_(std::move(options)), inner_(std::move(transport)), kind_(inner_->kind()), queue_pairs_(inner_->queue_pairs()),
      writer_(options_.pace.probe_after), policy_(!options_.reconnect, options_.grace, options_.pace.pause),
      upgrade_(options_.pace.pause) {
    upgrade_.on_connected(kind_ == TransportKind::rdma, Clock::now());
    if (options_.reconnect) {
        keeper_ = std::thread([this] { run_keeper(); });
    }
}

ResumableTransport::~ResumableTransport() {
    {
        Lock lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
    }
    stop_upgrade_.request_stop();
    if (keeper_.joinable()) {
        keeper_.join();
    }
}

bool ResumableTransport::is_connected() const {
    Lock lock(mutex_);
    return inner_ != nullptr;
}

void ResumableTransport::when_lost(std::function<void(const Error &)> done) {
    Lock lock(mutex_);
    when_lost_ = std::move(done);
}

TransportKind ResumableTransport::kind() const {
    Lock lock(mutex_);
    return kind_;
}

uint32_t ResumableTransport::queue_pairs() const {
    Lock lock(mutex_);
    return queue_pairs_;
}

uint32_t ResumableTransport::replacements() const {
    Lock lock(mutex_);
    return replacements_;
}

void ResumableTransport::wake() {
    Lock lock(mutex_);
    if (inner_) {
        inner_->wake();
    } else {
        woken_ = true;
        changed_.notify_all();
    }
}

// Sends what is unsent. True: everything was sent.
bool ResumableTransport::pump_out() {
    if (!inner_) {
        return false;
    }
    const auto is_done = writer_.flush(*inner_, reader_.consumed());
    if (!is_done) {
        on_send_failed(is_done.error());
        return false;
    }
    return *is_done;
}

void ResumableTransport::on_send_failed(const Error & error) {
    const auto inner = inner_;
    // Receives the peer's last data. Passes the error on, because afterwards receive() reports an orderly close.
    pump_in(&error);
    on_connection_lost(inner, error);
}

Result<size_t> ResumableTransport::send(std::span<const ConstBytes> parts) {
    Lock lock(mutex_);
    if (error_) {
        return std::unexpected(*error_);
    }
    if (!pump_out()) {
        return error_ ? Result<size_t>(std::unexpected(*error_)) : size_t{0};
    }
    if (writer_.needs_acknowledgement(parts)) {
        pump_in();
    }
    if (!inner_ || !writer_.begin_record(parts, reader_.consumed())) {
        return error_ ? Result<size_t>(std::unexpected(*error_)) : size_t{0};
    }
    const auto written = writer_.write(*inner_, parts, Clock::now(), reader_.consumed());
    if (written.error) {
        on_send_failed(*written.error);
    }
    if (written.size == 0 && error_) {
        return std::unexpected(*error_);
    }
    return written.size;
}

void ResumableTransport::lend(ConstBytes bytes) {
    Lock lock(mutex_);
    writer_.lend(bytes);
}

void ResumableTransport::end_loan() {
    Lock lock(mutex_);
    writer_.end_loan();
}

// Processes the acknowledgements just received, and the failure that ended receiving. `known`: the error of the connection,
// if it has already failed.
void ResumableTransport::on_received(const std::optional<RecordReader::Failure> & failure, const Error * known) {
    writer_.on_acknowledged(reader_.acknowledged());
    if (!failure) {
        return;
    }
    if (failure->kind == RecordReader::Failure::Kind::protocol) {
        close_with(failure->error);
        return;
    }
    const bool is_known = known != nullptr && failure->kind == RecordReader::Failure::Kind::connection;
    const auto inner = inner_;
    on_connection_lost(inner, is_known ? *known : failure->error);
}

// Receives everything available to process acknowledgements.
void ResumableTransport::pump_in(const Error * known) {
    if (!error_) {
        on_received(reader_.receive_ahead(inner_.get(), writer_.sent()), known);
    }
}

Result<size_t> ResumableTransport::receive(std::span<const MutableBytes> parts) {
    Lock lock(mutex_);
    if (error_) {
        const size_t size = reader_.receive_stashed(parts);
        return size > 0 ? Result<size_t>(size) : std::unexpected(*error_);
    }
    const auto received = reader_.receive(inner_.get(), parts, writer_.sent());
    on_received(received.failure, nullptr);
    if (received.size == 0 && error_) {
        return std::unexpected(*error_);
    }
    acknowledge_if_due();
    return received.size;
}

void ResumableTransport::acknowledge_if_due() {
    if (inner_ && writer_.acknowledge_if_due(reader_.consumed())) {
        pump_out();
    }
}

TimePoint ResumableTransport::probe_time() const { return inner_ ? writer_.probe_time() : no_deadline; }

void ResumableTransport::probe() {
    if (inner_ && writer_.probe_if_due(Clock::now(), reader_.consumed())) {
        pump_out();
    }
}

Result<bool> ResumableTransport::wait(Interest interest, TimePoint deadline, microseconds spin) {
    Lock lock(mutex_);
    if (interest.read && reader_.has_data()) {
        return true;
    }
    acknowledge_if_due();
    if (inner_) {
        pump_out();
    }
    if (!inner_ && !error_) {
        ++waiting_;
        wait_reconnected(lock, deadline);
        --waiting_;
        if (!error_) {
            return true;
        }
    }
    if (error_) {
        return std::unexpected(*error_);
    }
    const bool for_window = interest.write && writer_.window_left() == 0 && !writer_.is_in_record();
    const Interest inner_interest{.read = interest.read || for_window,
                                  .write = writer_.has_unsent() || (interest.write && !for_window)};
    ++waiting_;
    changed_.wait(lock, [this] { return !keeper_polls_; });
    const auto inner = inner_;
    if (!inner) {
        --waiting_;
        return true;
    }
    Result<bool> ready = true;
    while (inner_ == inner && !error_) {
        const TimePoint until = std::min(deadline, probe_time());
        lock.unlock();
        ready = inner->wait(inner_interest, until, spin);
        lock.lock();
        if (!ready || *ready || until == deadline) {
            break;
        }
        probe();
        spin = microseconds{0};
    }
    --waiting_;
    if (!ready) {
        on_connection_lost(inner, ready.error());
        return true;
    }
    if (*ready && for_window) {
        pump_in();
    }
    return ready;
}

void ResumableTransport::close_with(Error error) {
    if (!error_) {
        error_ = std::move(error);
        inner_.reset();
        changed_.notify_all();
    }
}

void ResumableTransport::break_off() {
    Lock lock(mutex_);
    if (inner_) {
        drop_connection();
    }
    close_with({Errc::closed, "this end has broken off the connection"});
}

}  // namespace caravan::net
