#include "client/session/stream.h"

#include "base/formatted.h"
#include "base/log.h"
#include "client/observe/trace.h"
#include "client/session/program_clock.h"
#include "tunables/client.h"

#include <algorithm>
#include <array>

namespace caravan::client {
namespace {

constexpr uint64_t launch_check_ns = std::chrono::nanoseconds(tunable::launch_check_interval).count();

}  // namespace

Stream::Stream(std::unique_ptr<net::Transport> transport, std::chrono::nanoseconds timeout, net::Polling polling)
    : transport_(std::move(transport)),
      timeout_(timeout),
      polling_(polling),
      replies_([this](std::span<const MutableBytes> parts) { return receive(parts); }),
      last_received_ns_(Trace::now_ns()),
      last_used_ns_(last_received_ns_) {}

Stream::Ticket Stream::expect(ReplyReader::PendingReply reply) {
    discard();
    expected_position_ = outbox_.queued();
    replies_.expect(std::move(reply));
    return last_ticket();
}

Stream::Ticket Stream::expect_deferred(size_t size) {
    discard();
    expected_position_ = outbox_.queued();
    replies_.expect_deferred(size);
    return last_ticket();
}

void Stream::set_destination(MutableBytes dest, Absent absent) {
    if (replies_.set_destination(dest, absent) && watched_) {
        transport_->wake();  // the watching thread does not wait to read yet
    }
}

void Stream::discard() {
    if (replies_.discard() && watched_) {
        transport_->wake();
    }
}

Result<> Stream::confirm(Lock & lock) {
    const uint64_t now = Trace::now_ns();
    if (failure_ || now - last_received_ns_ < launch_check_ns) {
        return pump(lock, [] { return true; });
    }
    last_received_ns_ = now;
    if (!watched_) {  // else another thread is watching the transport
        auto ready = transport_->wait({.read = true}, Clock::now(), microseconds{0});
        if (!ready) {
            close(std::move(ready.error()));
        } else if (*ready && replies_.is_idle()) {
            if (auto error = replies_.read_unsolicited()) {
                close(std::move(*error));
            }
        } else if (*ready) {
            pull();
        }
    }
    return pump(lock, [&] { return transport_->is_connected(); });
}

std::chrono::nanoseconds Stream::idle_time() const {
    return std::chrono::nanoseconds(Trace::now_ns() - last_used_ns_);
}

Result<> Stream::flush(Lock & lock, uint64_t position) {
    return timed_pump("send", counts_.sending_ns, lock, [&] { return outbox_.sent() >= position; });
}

Result<> Stream::send(Lock & lock, ConstBytes payload) {
    outbox_.append_external(payload);
    const bool lends = !std::exchange(lending_, true);  // another thread may be in here, sleeping
    if (lends) {
        transport_->lend(payload);
    }
    auto sent = flush(lock, outbox_.queued());
    if (lends) {
        transport_->end_loan();
        lending_ = false;
    }
    return sent;
}

Result<> Stream::await(Lock & lock, Ticket ticket) {
    if (is_done(ticket)) {
        return pump(lock, [] { return true; });
    }
    auto result = timed_pump("wait", counts_.waiting_ns, lock, [&] { return is_done(ticket); });
    last_received_ns_ = last_used_ns_;
    if (sends_at_round_trip_ != counts_.sends) {
        sends_at_round_trip_ = counts_.sends;
        ++counts_.round_trips;
    }
    return result;
}

Result<> Stream::await_first_bytes(Lock & lock) {
    const uint64_t number = replies_.deferred();
    auto result = timed_pump("wait", counts_.waiting_ns, lock, [&] { return replies_.has_begun(number); });
    last_received_ns_ = last_used_ns_;
    if (sends_at_round_trip_ != counts_.sends) {
        sends_at_round_trip_ = counts_.sends;
        ++counts_.round_trips;
    }
    return result;
}

template <class Done>
Result<> Stream::timed_pump(const char * name, uint64_t & ns, Lock & lock, Done done) {
    if (done()) {
        return pump(lock, done);
    }
    const uint64_t begin = Trace::now_ns();
    auto result = pump(lock, done);
    const uint64_t end = Trace::now_ns();
    ns += end - begin;
    ProgramClock::add_wait(std::chrono::nanoseconds(end - begin));
    last_used_ns_ = end;
    if (!traced_as_.empty()) {
        Trace::instance().add_own(name, traced_as_, begin, end);
    }
    return result;
}

void Stream::close(Error error) {
    if (failure_) {
        return;
    }
    failure_ = std::move(error);
    replies_.close();
    outbox_.close();
    transport_->wake();
    progress_.notify_all();
}

// Sends and receives what is possible now. True if bytes were moved.
bool Stream::move() {
    const bool out = push();
    const bool in = pull();
    if (out || in) {
        ++transfers_;
        log_stall_end();
        if (waiting_threads_ > 0) {
            progress_.notify_all();
        }
        if (in && watched_) {
            transport_->wake();  // this thread may have received what the watcher waits for
        }
    }
    return out || in;
}

bool Stream::push() {
    std::array<ConstBytes, net::max_parts> parts;
    const size_t count = outbox_.next_parts(parts);
    size_t taken = 0;
    if (count > 0) {
        auto sent = transport_->send(std::span(parts).first(count));
        if (!sent) {
            close(std::move(sent.error()));
            return true;
        }
        taken = *sent;
        counts_.sends += taken > 0 ? 1 : 0;
        counts_.bytes_sent += taken;
    }
    outbox_.mark_sent(taken);
    batches_ += taken > 0 && !outbox_.is_ready() ? 1 : 0;
    return taken > 0;
}

std::chrono::nanoseconds Stream::advance() {
    while (!failure_ && move()) {
    }
    return failure_                 ? tunable::never
           : outbox_.is_ready()     ? tunable::partner_send_interval
           : replies_.wants_input() ? tunable::partner_receive_interval
                                    : tunable::never;
}

Result<size_t> Stream::receive(std::span<const MutableBytes> parts) {
    auto got = transport_->receive(parts);
    counts_.bytes_received += got.value_or(0);
    return got;
}

bool Stream::pull() {
    auto progress = replies_.pull();
    if (progress.error) {
        close(std::move(*progress.error));
    }
    return progress.moved;
}

Stream::ProgressWatch Stream::start_watch() const {
    const TimePoint now = Clock::now();
    return {now, now, transfers_, counts_.bytes_sent + counts_.bytes_received, milestones()};
}

void Stream::update_watch(ProgressWatch & watch) const {
    if (watch.transfers == transfers_) {
        return;
    }
    const TimePoint now = Clock::now();
    const uint64_t bytes = counts_.bytes_sent + counts_.bytes_received;
    const std::chrono::duration<double> bought(static_cast<double>(bytes - watch.bytes) / min_rate);
    if (watch.milestones != milestones() || bought >= now - watch.since) {
        watch.since = now;
    } else {
        watch.since += std::chrono::duration_cast<std::chrono::nanoseconds>(bought);
    }
    watch = {now, watch.since, transfers_, bytes, milestones()};
}

// When a stall must be logged or times out.
TimePoint Stream::next_deadline(const ProgressWatch & watch) const {
    const bool is_noted = stall_threshold_.count() == 0 || stalled_since_ != TimePoint::max();
    const TimePoint end = watch.since + timeout_;
    return is_noted ? end : std::min(end, watch.moved + stall_threshold_);
}

void Stream::time_out(const ProgressWatch & watch) {
    const auto in_seconds = std::chrono::duration_cast<seconds>(timeout_).count();
    const bool is_silent = Clock::now() >= watch.moved + timeout_;
    close(Error{Errc::timed_out,
                    is_silent ? formatted("no progress for {} s (GGML_RPC_TIMEOUT_S)", in_seconds)
                              : formatted("less than {} bytes/s for {} s (GGML_RPC_TIMEOUT_S)", min_rate,
                                          in_seconds)});
}

void Stream::log_stall(TimePoint since) {
    stalled_since_ = since;
    const auto in_seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration_cast<seconds>(time).count(); };
    log_warning("RPC server {}: no progress for {} s: it is computing, stopped or unreachable. The time-out is {} s "
                "(GGML_RPC_TIMEOUT_S)",
                peer_, in_seconds(stall_threshold_), in_seconds(timeout_));
}

void Stream::log_stall_end() {
    if (stalled_since_ != TimePoint::max()) {
        log_warning("RPC server {}: progress again after {:.1f} s", peer_,
                    std::chrono::duration<double>(Clock::now() - std::exchange(stalled_since_, TimePoint::max())).count());
    }
}

template <class Done>
Result<> Stream::pump(Lock & lock, Done done) {
    if (failure_) {
        return std::unexpected(*failure_);
    }
    if (done()) {
        return {};
    }
    ProgressWatch watch = start_watch();
    for (;;) {
        const bool has_moved = move();
        if (failure_) {
            return std::unexpected(*failure_);
        }
        if (done()) {
            return {};
        }
        update_watch(watch);
        if (const TimePoint now = Clock::now(); now >= watch.since + timeout_) {
            time_out(watch);
            return std::unexpected(*failure_);
        } else if (now >= next_deadline(watch)) {
            log_stall(watch.moved);
        }
        if (has_moved) {
            continue;
        }
        TimePoint until = next_deadline(watch);
        if (before_sleep_) {
            const auto before_sleep = before_sleep_;
            lock.unlock();
            const auto again_after = before_sleep();
            lock.lock();
            if (failure_) {
                return std::unexpected(*failure_);
            }
            if (done()) {
                return {};
            }
            until = again_after == tunable::never ? until : std::min(until, Clock::now() + again_after);
        }
        if (watched_) {
            if ((outbox_.is_ready() && !watch_.write) || (replies_.wants_input() && !watch_.read)) {
                transport_->wake();  // it must watch for more events
            }
            ++waiting_threads_;
            progress_.wait_until(lock, until);
            --waiting_threads_;
            if (failure_) {
                return std::unexpected(*failure_);
            }
            continue;
        }
        watched_ = true;
        watch_ = {.read = replies_.wants_input(), .write = outbox_.is_ready()};
        const net::Interest interest = watch_;
        const microseconds polling_time = polling_.time();
        const TimePoint begin = Clock::now();
        lock.unlock();
        auto waited = transport_->wait(interest, until, polling_time);
        lock.lock();
        if (!interest.write) {  // it is about a reply only
            polling_.record(Clock::now() - begin);
        }
        watched_ = false;
        if (waiting_threads_ > 0) {
            progress_.notify_all();
        }
        if (!waited) {
            close(std::move(waited.error()));
        }
        if (failure_) {
            return std::unexpected(*failure_);
        }
    }
}

}  // namespace caravan::client
