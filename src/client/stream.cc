#include "client/stream.h"

#include "base/formatted.h"
#include "base/log.h"
#include "base/printable.h"
#include "client/trace.h"

#include <algorithm>
#include <array>

namespace caravan::client {
namespace {

constexpr size_t answer_header_size = sizeof(uint64_t);
constexpr size_t max_spare = 4;
// Sooner after the last answer, or the last look, the peer is not looked at again.
constexpr uint64_t trust_ns = 1'000'000;

// A server's text, for the log.
std::string safe_text(ConstBytes bytes) {
    return printable({reinterpret_cast<const char *>(bytes.data()), bytes.size()}, wire::max_error_text);
}

}  // namespace

Stream::Stream(std::unique_ptr<net::Transport> transport, std::chrono::nanoseconds silence, microseconds spin)
    : transport_(std::move(transport)),
      silence_(silence),
      spin_(spin),
      last_heard_ns_(Trace::now_ns()),
      last_used_ns_(last_heard_ns_) {}

MutableBytes Stream::append(size_t size) {
    if (outbox_.empty() || !outbox_.back().growing) {
        Segment segment;
        if (!spare_.empty()) {
            segment.own = std::move(spare_.back());
            spare_.pop_back();
        }
        segment.growing = true;
        outbox_.push_back(std::move(segment));
    }
    std::vector<std::byte> & bytes = outbox_.back().own;
    const size_t at = bytes.size();
    bytes.resize(at + size);
    queued_ += size;
    return MutableBytes(bytes).subspan(at);
}

void Stream::append_hole(uint64_t begin, std::vector<std::byte> bytes) {
    queued_ += bytes.size();
    Segment segment;
    segment.own = std::move(bytes);
    outbox_.push_back(std::move(segment));
    holes_.push_back(begin);
}

void Stream::fill(uint64_t begin) { std::erase(holes_, begin); }

void Stream::make_absent(const Awaited & awaited) {
    std::ranges::fill(awaited.dest, static_cast<std::byte>(awaited.absent));
}

Stream::Ticket Stream::expect(Awaited awaited) {
    discard();
    ++expected_;
    expected_position_ = queued_;
    if (failure_) {
        make_absent(awaited);
        answered_ = expected_;
    } else {
        awaited_.push_back(std::move(awaited));
    }
    return last_ticket();
}

Stream::Ticket Stream::expect_data_later(size_t size) {
    const Ticket ticket = expect(Awaited{{}, size, false, true, Absent::nan});
    later_ = ticket.number;
    return ticket;
}

void Stream::set_destination(MutableBytes dest, Absent absent) {
    const uint64_t number = std::exchange(later_, 0);
    if (number <= answered_) {  // the stream has failed since
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return;
    }
    Awaited & awaited = awaited_[number - answered_ - 1];
    awaited.dest = dest;
    awaited.absent = absent;
    if (watched_) {
        transport_->wake();  // the watching thread did not wait for these bytes
    }
}

void Stream::discard() {
    if (later_ > answered_) {
        Awaited & awaited = awaited_[later_ - answered_ - 1];
        awaited.own.resize(awaited.size);
        set_destination(awaited.own, Absent::nan);
    }
    later_ = 0;
}

bool Stream::is_held_up() const {
    return !awaited_.empty() && !has_destination(awaited_.front()) && arrived_ == answer_header_size &&
           header_ >> wire::answer_kind_shift == 0;
}

std::optional<std::string> Stream::take_launch_failure() {
    if (launch_failure_) {
        absent_until_ = expected_;
    }
    return std::exchange(launch_failure_, std::nullopt);
}

void Stream::note_launch_failure(std::string text) {
    if (!launch_failure_) {
        launch_failure_ = std::move(text);
    }
}

Result<> Stream::confirm(Lock & lock) {
    const uint64_t now = Trace::now_ns();
    if (failure_ || now - last_heard_ns_ < trust_ns) {
        return pump(lock, [] { return true; });
    }
    last_heard_ns_ = now;
    if (!watched_) {  // else another thread looks just now
        auto ready = transport_->wait({.read = true}, Clock::now(), microseconds{0});
        if (!ready) {
            break_off(std::move(ready.error()));
        } else if (*ready && awaited_.empty()) {
            hear_unasked();
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
    return timed_pump("send", counts_.sending_ns, lock, [&] { return sent_ >= position; });
}

Result<> Stream::send(Lock & lock, ConstBytes payload) {
    if (!payload.empty()) {
        Segment segment;
        segment.external = payload;
        outbox_.push_back(std::move(segment));
        queued_ += payload.size();
    }
    const bool lends = !std::exchange(lending_, true);  // another thread may be here, sleeping
    if (lends) {
        transport_->lend(payload);
    }
    auto sent = flush(lock, queued_);
    if (lends) {
        transport_->end_loan();
        lending_ = false;
    }
    return sent;
}

Result<> Stream::await(Lock & lock, Ticket ticket) {
    if (is_answered(ticket)) {
        return pump(lock, [] { return true; });
    }
    auto result = timed_pump("wait", counts_.waiting_ns, lock, [&] { return is_answered(ticket); });
    last_heard_ns_ = last_used_ns_;
    if (sends_at_round_trip_ != counts_.sends) {
        sends_at_round_trip_ = counts_.sends;
        ++counts_.round_trips;
    }
    return result;
}

Result<> Stream::await_begin(Lock & lock) {
    const uint64_t number = later_;
    auto result = timed_pump("wait", counts_.waiting_ns, lock,
                             [&] { return answered_ >= number || (answered_ + 1 == number && is_held_up()); });
    last_heard_ns_ = last_used_ns_;
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

void Stream::break_off(Error error) {
    if (failure_) {
        return;
    }
    failure_ = std::move(error);
    std::ranges::for_each(awaited_, make_absent);
    awaited_.clear();
    answered_ = expected_;
    retired_ = std::move(outbox_);  // the memory of holes stays where it is
    outbox_.clear();
    holes_.clear();
    sent_ = queued_;
    transport_->wake();
    progress_.notify_all();
}

void Stream::retire_front() {
    Segment & segment = outbox_.front();
    if (segment.growing && spare_.size() < max_spare) {
        segment.own.clear();
        spare_.push_back(std::move(segment.own));
    }
    outbox_.pop_front();
}

bool Stream::push() {
    if (outbox_.empty()) {
        return false;
    }
    std::array<ConstBytes, net::max_parts> parts;
    size_t count = 0;
    uint64_t room = (holes_.empty() ? queued_ : holes_.front()) - sent_;
    for (auto it = outbox_.begin(); it != outbox_.end() && count < parts.size() && room > 0; ++it) {
        if (const ConstBytes rest = it->rest(); !rest.empty()) {
            parts[count++] = rest.first(std::min<uint64_t>(rest.size(), room));
            room -= parts[count - 1].size();
        }
    }
    size_t taken = 0;
    if (count > 0) {
        auto sent = transport_->send(std::span(parts).first(count));
        if (!sent) {
            break_off(std::move(sent.error()));
            return true;
        }
        taken = *sent;
        counts_.sends += taken > 0 ? 1 : 0;
        counts_.bytes_sent += taken;
    }
    const bool moved = taken > 0;
    sent_ += taken;
    steps_ += moved && !can_push() ? 1 : 0;
    while (!outbox_.empty()) {
        Segment & front = outbox_.front();
        const size_t step = std::min(taken, front.rest().size());
        front.sent += step;
        taken -= step;
        if (!front.rest().empty()) {
            break;
        }
        retire_front();
    }
    return moved;
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

// False: it ended the stream.
bool Stream::hear_launch_failure(const std::string & text) {
    if (failed_launches_ == launches_) {
        break_off(Error{Errc::protocol, "the server reports more failed launches than were sent: " + text});
        return false;
    }
    ++failed_launches_;
    note_launch_failure(text);
    return true;
}

// A text has come in the place of the first awaited answer, or before it, and with it perhaps what follows. False: it
// is not whole yet, or it ended the stream.
bool Stream::hear_text() {
    const Awaited & awaited = awaited_.front();
    const MutableBytes dest = awaited.dest;
    const auto kind = static_cast<wire::AnswerKind>(header_ >> wire::answer_kind_shift);
    const uint64_t size = header_ & wire::answer_size_mask;
    if (size > wire::max_error_text || kind > wire::AnswerKind::refused) {
        break_off(Error{Errc::protocol, "an answer that makes no sense"});
        return false;
    }
    // What is in the answer's place goes back to the front of what was received.
    const auto here = dest.first(arrived_ - answer_header_size);
    surplus_.insert(surplus_.begin(), here.begin(), here.end());
    arrived_ = answer_header_size;
    if (surplus_.size() < size) {
        std::array<std::byte, wire::max_error_text> more;
        const std::array parts{MutableBytes(more).first(size - surplus_.size())};
        auto got = receive_from_transport(parts);
        if (!got) {
            break_off(std::move(got.error()));
            return false;
        }
        surplus_.insert(surplus_.end(), more.begin(), more.begin() + static_cast<ptrdiff_t>(*got));
        if (surplus_.size() < size) {
            return false;
        }
    }
    const std::string text = safe_text(ConstBytes(surplus_).first(size));
    surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(size));
    arrived_ = 0;
    switch (kind) {
        case wire::AnswerKind::launch_failed: return hear_launch_failure(text);
        case wire::AnswerKind::refused:
            if (!awaited.may_be_refused) {
                break_off(Error{Errc::protocol, "the server refuses what cannot be refused: " + text});
                return false;
            }
            refusal_ = text;
            make_absent(awaited);
            awaited_.pop_front();
            ++answered_;
            return true;
        default:
            break_off(Error{Errc::protocol, "the server ended the session: " + text});
            return false;
    }
}

// Something has come though nothing is awaited: the text of a failed launch, or of the session's end. What else it may be
// stays for the next answer, which it will not fit.
void Stream::hear_unasked() {
    std::array<std::byte, answer_header_size + wire::max_error_text> bytes;
    const std::array parts{MutableBytes(bytes).subspan(std::min(surplus_.size(), bytes.size()))};
    if (parts[0].empty()) {
        return;
    }
    auto got = receive_from_transport(parts);
    if (!got) {
        break_off(std::move(got.error()));
        return;
    }
    surplus_.insert(surplus_.end(), parts[0].begin(), parts[0].begin() + static_cast<ptrdiff_t>(*got));
    while (surplus_.size() >= answer_header_size) {
        const auto header = load<uint64_t>(surplus_.data());
        const auto kind = static_cast<wire::AnswerKind>(header >> wire::answer_kind_shift);
        const uint64_t size = header & wire::answer_size_mask;
        const bool is_text = kind == wire::AnswerKind::launch_failed || kind == wire::AnswerKind::ended;
        if (!is_text || size > wire::max_error_text || surplus_.size() - answer_header_size < size) {
            return;
        }
        const std::string text = safe_text(ConstBytes(surplus_).subspan(answer_header_size, size));
        surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(answer_header_size + size));
        if (kind == wire::AnswerKind::ended) {
            break_off(Error{Errc::protocol, "the server ended the session: " + text});
            return;
        }
        if (!hear_launch_failure(text)) {
            return;
        }
    }
}

bool Stream::pull() {
    bool moved = false;
    while (!awaited_.empty()) {
        const MutableBytes dest = awaited_.front().dest;
        const size_t size = awaited_.front().size;
        if (is_held_up()) {
            return moved;
        }
        if (arrived_ == answer_header_size && header_ >> wire::answer_kind_shift != 0) {
            if (!hear_text()) {
                return moved;
            }
            moved = true;
            continue;
        }
        const size_t whole = answer_header_size + size;
        std::array<MutableBytes, 2> parts;
        size_t count = 0;
        if (arrived_ < answer_header_size) {
            parts[count++] = mutable_bytes(&header_, answer_header_size).subspan(arrived_);
        }
        if (!dest.empty()) {
            parts[count++] = dest.subspan(arrived_ > answer_header_size ? arrived_ - answer_header_size : 0);
        }
        auto got = receive(std::span(parts).first(count));
        if (!got) {
            break_off(std::move(got.error()));
            return true;
        }
        if (*got == 0) {
            return moved;
        }
        moved = true;
        steps_ += arrived_ == 0 ? 1 : 0;
        arrived_ += *got;
        if (arrived_ >= answer_header_size && header_ >> wire::answer_kind_shift != 0) {
            if (!hear_text()) {
                return true;
            }
            continue;
        }
        if (arrived_ >= answer_header_size && header_ != size) {
            break_off(Error{Errc::protocol, formatted("an answer of {} bytes came where {} bytes were expected",
                                                      header_, size)});
            return true;
        }
        if (arrived_ == whole) {
            ++answered_;
            ++steps_;
            if (awaited_.front().is_data && (launch_failure_ || answered_ <= absent_until_)) {
                make_absent(awaited_.front());  // it was computed from, or left by, a launch that failed
            }
            awaited_.pop_front();
            arrived_ = 0;
        }
    }
    return moved;
}

Stream::Patience Stream::begin_patience() const {
    const TimePoint now = Clock::now();
    return {now, now, moves_, counts_.bytes_sent + counts_.bytes_received, steps_};
}

void Stream::note_progress(Patience & patience) const {
    if (patience.moves == moves_) {
        return;
    }
    const TimePoint now = Clock::now();
    const uint64_t bytes = counts_.bytes_sent + counts_.bytes_received;
    const std::chrono::duration<double> bought(static_cast<double>(bytes - patience.bytes) / least_rate);
    if (patience.steps != steps_ || bought >= now - patience.since) {
        patience.since = now;
    } else {
        patience.since += std::chrono::duration_cast<std::chrono::nanoseconds>(bought);
    }
    patience = {now, patience.since, moves_, bytes, steps_};
}

// When a silence is to be reported, or ends the stream.
TimePoint Stream::next_look(const Patience & patience) const {
    const bool is_noted = note_after_.count() == 0 || silent_since_ != TimePoint::max();
    const TimePoint end = patience.since + silence_;
    return is_noted ? end : std::min(end, patience.moved + note_after_);
}

void Stream::give_up(const Patience & patience) {
    const auto in_seconds = std::chrono::duration_cast<seconds>(silence_).count();
    const bool is_silent = Clock::now() >= patience.moved + silence_;
    break_off(Error{Errc::timed_out,
                    is_silent ? formatted("no progress for {} s (GGML_RPC_TIMEOUT_S)", in_seconds)
                              : formatted("less than {} bytes a second for {} s (GGML_RPC_TIMEOUT_S)", least_rate,
                                          in_seconds)});
}

void Stream::note_silence(TimePoint since) {
    silent_since_ = since;
    const auto in_seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration_cast<seconds>(time).count(); };
    log_warning("RPC server {}: no progress for {} s: it computes, has stopped, or cannot be reached. The client gives "
                "up after {} s (GGML_RPC_TIMEOUT_S)",
                peer_, in_seconds(note_after_), in_seconds(silence_));
}

void Stream::note_end_of_silence() {
    if (silent_since_ != TimePoint::max()) {
        log_warning("RPC server {}: goes on after {:.1f} s without progress", peer_,
                    std::chrono::duration<double>(Clock::now() - std::exchange(silent_since_, TimePoint::max())).count());
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
    Patience patience = begin_patience();
    for (;;) {
        const bool out = push();
        const bool in = pull();
        if (out || in) {
            ++moves_;
            note_end_of_silence();
            if (sleepers_ > 0) {
                progress_.notify_all();
            }
            if (in && watched_) {
                transport_->wake();  // what the watcher waits for may have come in here
            }
        }
        if (failure_) {
            return std::unexpected(*failure_);
        }
        if (done()) {
            return {};
        }
        note_progress(patience);
        if (const TimePoint now = Clock::now(); now >= patience.since + silence_) {
            give_up(patience);
            return std::unexpected(*failure_);
        } else if (now >= next_look(patience)) {
            note_silence(patience.moved);
        }
        if (out || in) {
            continue;
        }
        if (watched_) {
            if ((can_push() && !watch_.write) || (!awaited_.empty() && !is_held_up() && !watch_.read)) {
                transport_->wake();  // it must look for more
            }
            ++sleepers_;
            progress_.wait_until(lock, patience.since + silence_);
            --sleepers_;
            if (failure_) {
                return std::unexpected(*failure_);
            }
            continue;
        }
        watched_ = true;
        watch_ = {.read = !awaited_.empty() && !is_held_up(), .write = can_push()};
        const net::Interest interest = watch_;
        const TimePoint until = next_look(patience);
        lock.unlock();
        auto waited = transport_->wait(interest, until, spin_);
        lock.lock();
        watched_ = false;
        if (sleepers_ > 0) {
            progress_.notify_all();
        }
        if (!waited) {
            break_off(std::move(waited.error()));
        }
        if (failure_) {
            return std::unexpected(*failure_);
        }
    }
}

}  // namespace caravan::client
