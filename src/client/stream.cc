#include "client/stream.h"

#include "base/formatted.h"
#include "base/log.h"
#include "base/printable.h"
#include "client/trace.h"

#include <algorithm>
#include <array>

namespace caravan::client {
namespace {

constexpr size_t reply_header_size = sizeof(uint64_t);
// The connection is not checked again sooner than this after the last reply or check.
constexpr uint64_t probe_interval_ns = 1'000'000;

// A server's text, for the log.
std::string printable_text(ConstBytes bytes) {
    return printable({reinterpret_cast<const char *>(bytes.data()), bytes.size()}, wire::max_error_text);
}

}  // namespace

Stream::Stream(std::unique_ptr<net::Transport> transport, std::chrono::nanoseconds timeout, microseconds spin)
    : transport_(std::move(transport)),
      timeout_(timeout),
      spin_(spin),
      last_received_ns_(Trace::now_ns()),
      last_used_ns_(last_received_ns_) {}

void Stream::make_absent(const PendingReply & awaited) {
    std::ranges::fill(awaited.dest, static_cast<std::byte>(awaited.absent));
}

Stream::Ticket Stream::expect(PendingReply awaited) {
    discard();
    ++expected_;
    expected_position_ = outbox_.queued();
    if (failure_) {
        make_absent(awaited);
        completed_ = expected_;
    } else {
        pending_.push_back(std::move(awaited));
    }
    return last_ticket();
}

Stream::Ticket Stream::expect_deferred(size_t size) {
    const Ticket ticket = expect(PendingReply{{}, size, false, true, Absent::nan});
    deferred_ = ticket.number;
    return ticket;
}

void Stream::set_destination(MutableBytes dest, Absent absent) {
    const uint64_t number = std::exchange(deferred_, 0);
    if (number <= completed_) {  // the stream has failed since
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return;
    }
    PendingReply & awaited = pending_[number - completed_ - 1];
    awaited.dest = dest;
    awaited.absent = absent;
    if (watched_) {
        transport_->wake();  // the watching thread does not wait to read yet
    }
}

void Stream::discard() {
    if (deferred_ > completed_) {
        PendingReply & awaited = pending_[deferred_ - completed_ - 1];
        awaited.own.resize(awaited.size);
        set_destination(awaited.own, Absent::nan);
    }
    deferred_ = 0;
}

bool Stream::needs_destination() const {
    return !pending_.empty() && !has_destination(pending_.front()) && arrived_ == reply_header_size &&
           header_ >> wire::answer_kind_shift == 0;
}

std::optional<std::string> Stream::take_launch_failure() {
    if (launch_failure_) {
        absent_until_ = expected_;
    }
    return std::exchange(launch_failure_, std::nullopt);
}

void Stream::set_launch_failure(std::string text) {
    if (!launch_failure_) {
        launch_failure_ = std::move(text);
    }
}

Result<> Stream::confirm(Lock & lock) {
    const uint64_t now = Trace::now_ns();
    if (failure_ || now - last_received_ns_ < probe_interval_ns) {
        return pump(lock, [] { return true; });
    }
    last_received_ns_ = now;
    if (!watched_) {  // else another thread is watching the transport
        auto ready = transport_->wait({.read = true}, Clock::now(), microseconds{0});
        if (!ready) {
            close(std::move(ready.error()));
        } else if (*ready && pending_.empty()) {
            read_unsolicited();
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
    const uint64_t number = deferred_;
    auto result = timed_pump("wait", counts_.waiting_ns, lock,
                             [&] { return completed_ >= number || (completed_ + 1 == number && needs_destination()); });
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
    std::ranges::for_each(pending_, make_absent);
    pending_.clear();
    completed_ = expected_;
    outbox_.close();
    transport_->wake();
    progress_.notify_all();
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
    milestones_ += taken > 0 && !outbox_.is_ready() ? 1 : 0;
    return taken > 0;
}

Result<size_t> Stream::receive_from_transport(std::span<const MutableBytes> parts) {
    auto got = transport_->receive(parts);
    counts_.bytes_received += got.value_or(0);
    return got;
}

Result<size_t> Stream::receive(std::span<const MutableBytes> parts) {
    if (surplus_.empty()) {
        return receive_from_transport(parts);
    }
    size_t total = 0;
    for (const MutableBytes part : parts) {
        const size_t step = std::min(part.size(), surplus_.size() - total);
        std::copy_n(surplus_.begin() + static_cast<ptrdiff_t>(total), step, part.begin());
        total += step;
    }
    surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(total));
    return total;
}

// False if this closed the stream.
bool Stream::count_launch_failure(const std::string & text) {
    if (failed_launches_ == launches_) {
        close(Error{Errc::protocol, "the server reported more failed launches than were sent: " + text});
        return false;
    }
    ++failed_launches_;
    set_launch_failure(text);
    return true;
}

// Receives a text that arrives instead of the first pending reply or before it, possibly with bytes that follow. False if it
// is incomplete or closed the stream.
bool Stream::read_text_reply() {
    const PendingReply & awaited = pending_.front();
    const MutableBytes dest = awaited.dest;
    const auto kind = static_cast<wire::AnswerKind>(header_ >> wire::answer_kind_shift);
    const uint64_t size = header_ & wire::answer_size_mask;
    if (size > wire::max_error_text || kind > wire::AnswerKind::refused) {
        close(Error{Errc::protocol, "malformed reply header"});
        return false;
    }
    // Bytes that were received into the reply's memory belong to the text and what follows it.
    const auto here = dest.first(arrived_ - reply_header_size);
    surplus_.insert(surplus_.begin(), here.begin(), here.end());
    arrived_ = reply_header_size;
    if (surplus_.size() < size) {
        std::array<std::byte, wire::max_error_text> more;
        const std::array parts{MutableBytes(more).first(size - surplus_.size())};
        auto got = receive_from_transport(parts);
        if (!got) {
            close(std::move(got.error()));
            return false;
        }
        surplus_.insert(surplus_.end(), more.begin(), more.begin() + static_cast<ptrdiff_t>(*got));
        if (surplus_.size() < size) {
            return false;
        }
    }
    const std::string text = printable_text(ConstBytes(surplus_).first(size));
    surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(size));
    arrived_ = 0;
    switch (kind) {
        case wire::AnswerKind::launch_failed: return count_launch_failure(text);
        case wire::AnswerKind::refused:
            if (!awaited.may_be_refused) {
                close(Error{Errc::protocol, "the server refused a request that cannot be refused: " + text});
                return false;
            }
            refusal_ = text;
            make_absent(awaited);
            pending_.pop_front();
            ++completed_;
            return true;
        default:
            close(Error{Errc::protocol, "the server ended the session: " + text});
            return false;
    }
}

// Receives bytes that arrive while no reply is pending: the text of a failed launch, or of the session's end. Any other bytes
// stay in surplus_, where the next reply's header will not match.
void Stream::read_unsolicited() {
    std::array<std::byte, reply_header_size + wire::max_error_text> bytes;
    const std::array parts{MutableBytes(bytes).subspan(std::min(surplus_.size(), bytes.size()))};
    if (parts[0].empty()) {
        return;
    }
    auto got = receive_from_transport(parts);
    if (!got) {
        close(std::move(got.error()));
        return;
    }
    surplus_.insert(surplus_.end(), parts[0].begin(), parts[0].begin() + static_cast<ptrdiff_t>(*got));
    while (surplus_.size() >= reply_header_size) {
        const auto header = load<uint64_t>(surplus_.data());
        const auto kind = static_cast<wire::AnswerKind>(header >> wire::answer_kind_shift);
        const uint64_t size = header & wire::answer_size_mask;
        const bool is_text = kind == wire::AnswerKind::launch_failed || kind == wire::AnswerKind::ended;
        if (!is_text || size > wire::max_error_text || surplus_.size() - reply_header_size < size) {
            return;
        }
        const std::string text = printable_text(ConstBytes(surplus_).subspan(reply_header_size, size));
        surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(reply_header_size + size));
        if (kind == wire::AnswerKind::ended) {
            close(Error{Errc::protocol, "the server ended the session: " + text});
            return;
        }
        if (!count_launch_failure(text)) {
            return;
        }
    }
}

bool Stream::pull() {
    bool moved = false;
    while (!pending_.empty()) {
        const MutableBytes dest = pending_.front().dest;
        const size_t size = pending_.front().size;
        if (needs_destination()) {
            return moved;
        }
        if (arrived_ == reply_header_size && header_ >> wire::answer_kind_shift != 0) {
            if (!read_text_reply()) {
                return moved;
            }
            moved = true;
            continue;
        }
        const size_t whole = reply_header_size + size;
        std::array<MutableBytes, 2> parts;
        size_t count = 0;
        if (arrived_ < reply_header_size) {
            parts[count++] = mutable_bytes(&header_, reply_header_size).subspan(arrived_);
        }
        if (!dest.empty()) {
            parts[count++] = dest.subspan(arrived_ > reply_header_size ? arrived_ - reply_header_size : 0);
        }
        auto got = receive(std::span(parts).first(count));
        if (!got) {
            close(std::move(got.error()));
            return true;
        }
        if (*got == 0) {
            return moved;
        }
        moved = true;
        milestones_ += arrived_ == 0 ? 1 : 0;
        arrived_ += *got;
        if (arrived_ >= reply_header_size && header_ >> wire::answer_kind_shift != 0) {
            if (!read_text_reply()) {
                return true;
            }
            continue;
        }
        if (arrived_ >= reply_header_size && header_ != size) {
            close(Error{Errc::protocol, formatted("reply of {} bytes where {} were expected", header_, size)});
            return true;
        }
        if (arrived_ == whole) {
            ++completed_;
            ++milestones_;
            if (pending_.front().is_data && (launch_failure_ || completed_ <= absent_until_)) {
                make_absent(pending_.front());  // the result of a failed launch, or computed from one
            }
            pending_.pop_front();
            arrived_ = 0;
        }
    }
    return moved;
}

Stream::ProgressWatch Stream::start_watch() const {
    const TimePoint now = Clock::now();
    return {now, now, transfers_, counts_.bytes_sent + counts_.bytes_received, milestones_};
}

void Stream::update_watch(ProgressWatch & watch) const {
    if (watch.transfers == transfers_) {
        return;
    }
    const TimePoint now = Clock::now();
    const uint64_t bytes = counts_.bytes_sent + counts_.bytes_received;
    const std::chrono::duration<double> bought(static_cast<double>(bytes - watch.bytes) / min_rate);
    if (watch.milestones != milestones_ || bought >= now - watch.since) {
        watch.since = now;
    } else {
        watch.since += std::chrono::duration_cast<std::chrono::nanoseconds>(bought);
    }
    watch = {now, watch.since, transfers_, bytes, milestones_};
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
        if (out || in) {
            continue;
        }
        if (watched_) {
            if ((outbox_.is_ready() && !watch_.write) || (!pending_.empty() && !needs_destination() && !watch_.read)) {
                transport_->wake();  // it must watch for more events
            }
            ++waiting_threads_;
            progress_.wait_until(lock, watch.since + timeout_);
            --waiting_threads_;
            if (failure_) {
                return std::unexpected(*failure_);
            }
            continue;
        }
        watched_ = true;
        watch_ = {.read = !pending_.empty() && !needs_destination(), .write = outbox_.is_ready()};
        const net::Interest interest = watch_;
        const TimePoint until = next_deadline(watch);
        lock.unlock();
        auto waited = transport_->wait(interest, until, spin_);
        lock.lock();
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
