#include "net/resumable.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/counted.h"
#include "base/log.h"
#include "base/retry.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

constexpr size_t header_size = sizeof(wire::RecordHeader);
constexpr size_t staging_size = 64 * 1024;
// Behind a long record that goes straight to its place: enough for the next header, and a short record.
constexpr size_t look_ahead = 4096;
// So much is taken before the peer is told of it, if nothing goes to the peer anyway.
constexpr uint64_t tell_after = wire::resume_window / 8;
// A send that finds less room than this looks for acknowledgements first.
constexpr uint64_t little_room = wire::max_record;
constexpr seconds probe_after{1};
// One that is made again and breaks sooner was none, if it brought nothing.
constexpr seconds no_connection{5};
// The active end looks at a connection that nobody waits for.
constexpr seconds look_every{1};
constexpr seconds attempt_patience{3};
constexpr milliseconds first_pause{50}, longest_pause{500};
// A peer whose connection was reset lives, and knows it, or its process has ended: it comes back soon or not at all.
constexpr seconds grace_after_reset{5};

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr bool checks = false;  // a fuzzer would not get past them
#else
constexpr bool checks = true;
#endif

size_t total_size(std::span<const ConstBytes> parts) {
    size_t size = 0;
    for (const ConstBytes part : parts) {
        size += part.size();
    }
    return size;
}

void append_bytes(std::vector<std::byte> & to, ConstBytes bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

}  // namespace

ResumableTransport::ResumableTransport(std::unique_ptr<Transport> transport, Options options)
    : options_(std::move(options)), inner_(std::move(transport)), kind_(inner_->kind()), staging_(staging_size) {
    if (options_.reopen) {
        keeper_ = std::thread([this] { keep(); });
    }
}

ResumableTransport::~ResumableTransport() {
    {
        Lock lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
    }
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

std::string_view ResumableTransport::kind() const {
    Lock lock(mutex_);
    return kind_ == "rdma" ? "rdma" : kind_ == "unix" ? "unix" : "tcp";
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

uint64_t ResumableTransport::room() const { return wire::resume_window - (replay_.end() - replay_.begin()); }

// The next `length` bytes of the stream, which are the first of `data` (not needed for a long record).
void ResumableTransport::begin_record(uint64_t length, std::span<const ConstBytes> data) {
    record_left_ = length;
    wire::RecordHeader header{static_cast<uint32_t>(length), 0, taken_};
    header.check = wire::record_check(on_wire_, header, data);
    append_bytes(control_, const_bytes(&header, sizeof header));
    told_ = taken_;
}

// The connection takes what control_ holds and the stream up to `end`, in records. True: all of it.
bool ResumableTransport::pump_out(uint64_t end) {
    while (inner_ && (!control_.empty() || on_wire_ < end)) {
        if (record_left_ == 0 && on_wire_ < end) {
            std::vector<ConstBytes> kept;
            const uint64_t length = std::min<uint64_t>(end - on_wire_, wire::max_record);
            for (uint64_t at = on_wire_; length <= wire::max_checked_record && at < on_wire_ + length;) {
                kept.push_back(replay_.at(at, on_wire_ + length - at));
                at += kept.back().size();
            }
            begin_record(length, kept);
        }
        const uint64_t size = std::min(record_left_, end - on_wire_);
        const ConstBytes first = replay_.at(on_wire_, size);
        const std::array parts{ConstBytes(control_), first, replay_.at(on_wire_ + first.size(), size - first.size())};
        const auto inner = inner_;
        const auto sent = inner->send(parts);
        if (!sent) {
            // The peer's last words, if any. After an error, the end of what can be received looks like an orderly one.
            pump_in(&sent.error());
            broke(inner, sent.error());
            return false;
        }
        if (*sent == 0) {
            return false;
        }
        const size_t of_control = std::min(*sent, control_.size());
        control_.erase(control_.begin(), control_.begin() + static_cast<ptrdiff_t>(of_control));
        on_wire_ += *sent - of_control;
        record_left_ -= *sent - of_control;
    }
    return inner_ != nullptr;
}

Result<size_t> ResumableTransport::send(std::span<const ConstBytes> parts) {
    Lock lock(mutex_);
    if (over_) {
        return std::unexpected(*over_);
    }
    if (!pump_out(replay_.end())) {
        return over_ ? Result<size_t>(std::unexpected(*over_)) : size_t{0};
    }
    const size_t size = total_size(parts);
    if (record_left_ == 0) {
        if (room() < std::min<uint64_t>(size, little_room)) {
            pump_in();
        }
        const uint64_t length = std::min({static_cast<uint64_t>(size), room(), uint64_t{wire::max_record}});
        if (length == 0 || !inner_) {
            return over_ ? Result<size_t>(std::unexpected(*over_)) : size_t{0};
        }
        // A record promises only what there is room for, so it never has to wait for an acknowledgement in its middle.
        begin_record(length, parts);
    }
    const uint64_t begin = replay_.end();
    uint64_t left = std::min<uint64_t>(size, record_left_);
    const uint64_t end = begin + left;
    for (const ConstBytes part : parts) {
        const size_t step = std::min<uint64_t>(part.size(), left);
        replay_.append(part.first(step));
        left -= step;
    }
    pump_out(end);
    // What the connection has not taken is the caller's again, who will come with it a second time.
    const uint64_t sent = std::max(on_wire_, begin);
    last_sent_ = Clock::now();
    probed_ = false;
    replay_.cut_back(sent);
    if (sent == begin && over_) {
        return std::unexpected(*over_);
    }
    return sent - begin;
}

void ResumableTransport::lend(ConstBytes bytes) {
    Lock lock(mutex_);
    replay_.lend(bytes);
}

void ResumableTransport::end_loan() {
    Lock lock(mutex_);
    replay_.end_loan();
}

// An acknowledgement from the peer.
void ResumableTransport::acknowledge(uint64_t position) {
    if (position > on_wire_) {
        end({Errc::protocol, "the peer acknowledged what it was not sent"});
    } else if (position > replay_.begin()) {
        replay_.forget(position);
    }
}

// Is the next header staged, and the data, if they are checked?
bool ResumableTransport::has_record() const {
    const size_t staged = staging_end_ - staging_begin_;
    if (staged < header_size) {
        return false;
    }
    const uint64_t length = load<wire::RecordHeader>(staging_.data() + staging_begin_).length;
    return length > wire::max_checked_record || staged - header_size >= length;
}

void ResumableTransport::arrive(uint64_t size) {
    incoming_left_ -= size;
    arrived_ += size;
}

// Reads the next header from what is staged. False: there is none, or it is nonsense.
bool ResumableTransport::next_record() {
    if (over_ || !has_record()) {
        return false;
    }
    const auto header = load<wire::RecordHeader>(staging_.data() + staging_begin_);
    staging_begin_ += header_size;
    const std::array staged{ConstBytes(staging_).subspan(staging_begin_, staging_end_ - staging_begin_)};
    if (checks && header.check != wire::record_check(arrived_, header, staged)) {
        const auto inner = inner_;
        broke(inner, {Errc::io, "what arrived was damaged on its way"});
        return false;
    }
    if (header.length > wire::max_record) {
        end({Errc::protocol, "the peer sent a record that is too long"});
        return false;
    }
    incoming_left_ = header.length;
    acknowledge(header.acknowledged);
    return !over_;
}

// Receives what has come, for whatever it is. False: nothing. `known`: why the connection is broken, if it is already.
bool ResumableTransport::fill_staging(const Error * known) {
    if (!inner_) {
        return false;
    }
    if (staging_begin_ > 0) {
        std::copy(staging_.begin() + static_cast<ptrdiff_t>(staging_begin_),
                  staging_.begin() + static_cast<ptrdiff_t>(staging_end_), staging_.begin());
        staging_end_ -= std::exchange(staging_begin_, 0);
    }
    const std::array parts{MutableBytes(staging_).subspan(staging_end_)};
    const auto inner = inner_;
    const auto got = inner->receive(parts);
    if (!got) {
        broke(inner, known != nullptr ? *known : got.error());
        return false;
    }
    staging_end_ += *got;
    return *got > 0;
}

// Receives what is there and keeps it for later, for the sake of the acknowledgements.
void ResumableTransport::pump_in(const Error * known) {
    do {
        while (incoming_left_ > 0 ? staging_begin_ < staging_end_ : next_record()) {
            const size_t step = std::min<uint64_t>(incoming_left_, staging_end_ - staging_begin_);
            append_bytes(stash_, ConstBytes(staging_).subspan(staging_begin_, step));
            staging_begin_ += step;
            arrive(step);
        }
        if (stash_.size() - stash_begin_ > wire::resume_window) {
            end({Errc::protocol, "the peer sent more than was acknowledged"});
        }
    } while (!over_ && fill_staging(known));
}

Result<size_t> ResumableTransport::receive(std::span<const MutableBytes> parts) {
    Lock lock(mutex_);
    size_t total = 0, part = 0, offset = 0;
    const auto give = [&](ConstBytes bytes) {
        const size_t step = std::min(bytes.size(), parts[part].size() - offset);
        std::ranges::copy(bytes.first(step), parts[part].begin() + static_cast<ptrdiff_t>(offset));
        offset += step;
        total += step;
        return step;
    };
    for (;;) {
        while (part < parts.size() && offset == parts[part].size()) {
            ++part;
            offset = 0;
        }
        if (part == parts.size()) {
            break;
        }
        if (stash_begin_ < stash_.size()) {
            stash_begin_ += give(ConstBytes(stash_).subspan(stash_begin_));
            if (stash_begin_ == stash_.size()) {
                stash_.clear();
                stash_begin_ = 0;
            }
        } else if (over_) {
            break;
        } else if (incoming_left_ > 0 && staging_begin_ < staging_end_) {
            const size_t there = std::min<uint64_t>(incoming_left_, staging_end_ - staging_begin_);
            const size_t step = give(ConstBytes(staging_).subspan(staging_begin_, there));
            staging_begin_ += step;
            arrive(step);
        } else if (incoming_left_ == 0 && has_record()) {
            next_record();
        } else if (total > 0 || !inner_) {
            break;
        } else if (incoming_left_ <= look_ahead) {
            if (!fill_staging()) {
                break;
            }
        } else {
            // Straight to where it belongs.
            staging_begin_ = staging_end_ = 0;
            std::array<MutableBytes, max_parts> places;
            size_t count = 0;
            uint64_t room = incoming_left_;
            for (size_t i = part; i < parts.size() && count + 1 < places.size() && room > 0; ++i) {
                const MutableBytes place = i == part ? parts[i].subspan(offset) : parts[i];
                places[count++] = place.first(std::min<uint64_t>(place.size(), room));
                room -= places[count - 1].size();
            }
            if (room == 0) {
                places[count++] = MutableBytes(staging_).first(look_ahead);
            }
            const auto inner = inner_;
            const auto got = inner->receive(std::span(places).first(count));
            if (!got) {
                broke(inner, got.error());
                break;
            }
            const uint64_t straight = std::min<uint64_t>(*got, incoming_left_ - room);
            total += straight;
            arrive(straight);
            staging_end_ = *got - straight;
            break;
        }
    }
    taken_ += total;
    if (total == 0 && over_) {
        return std::unexpected(*over_);
    }
    acknowledge_much();
    return total;
}

void ResumableTransport::acknowledge_much() {
    if (inner_ && taken_ - told_ >= tell_after && control_.empty() && record_left_ == 0) {
        begin_record(0, {});
        pump_out(replay_.end());
    }
}

// A record tells by its position whether the one before it was lost. So one without data follows the last one.
TimePoint ResumableTransport::probe_time() const {
    const bool is_due = inner_ && !probed_ && replay_.begin() < replay_.end() && !has_unsent() && record_left_ == 0;
    return is_due ? last_sent_ + probe_after : no_deadline;
}

void ResumableTransport::probe() {
    if (Clock::now() >= probe_time()) {
        probed_ = true;
        begin_record(0, {});
        pump_out(replay_.end());
    }
}

// Is there something for receive that the connection does not know of?
bool ResumableTransport::may_receive() const {
    return stash_begin_ < stash_.size() || (incoming_left_ == 0 && has_record()) ||
           (incoming_left_ > 0 && staging_begin_ < staging_end_);
}

Result<bool> ResumableTransport::wait(Interest interest, TimePoint deadline, microseconds spin) {
    Lock lock(mutex_);
    if (interest.read && may_receive()) {
        return true;
    }
    acknowledge_much();
    if (inner_) {
        pump_out(replay_.end());
    }
    if (!inner_ && !over_) {
        ++waiting_;
        wait_broken(lock, deadline);
        --waiting_;
        if (!over_) {
            return true;
        }
    }
    if (over_) {
        return std::unexpected(*over_);
    }
    const bool for_room = interest.write && room() == 0 && record_left_ == 0;
    const Interest inner_interest{.read = interest.read || for_room,
                                  .write = has_unsent() || (interest.write && !for_room)};
    ++waiting_;
    changed_.wait(lock, [this] { return !looking_; });
    const auto inner = inner_;
    if (!inner) {
        --waiting_;
        return true;
    }
    Result<bool> ready = true;
    while (inner_ == inner && !over_) {
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
        broke(inner, ready.error());
        return true;
    }
    if (*ready && for_room) {
        pump_in();
    }
    return ready;
}

void ResumableTransport::end(Error error) {
    if (!over_) {
        over_ = std::move(error);
        inner_.reset();
        changed_.notify_all();
    }
}

void ResumableTransport::drop_connection() {
    inner_->wake();
    inner_->break_off();
    inner_.reset();
    control_.clear();
    record_left_ = incoming_left_ = 0;
    staging_begin_ = staging_end_ = 0;
    broken_since_ = Clock::now();
}

void ResumableTransport::broke(const std::shared_ptr<Transport> & transport, Error error) {
    if (inner_ != transport || over_) {
        return;  // it has been replaced already
    }
    drop_connection();
    const bool is_passive = !options_.reopen;
    if (peer_has_ended_) {
        error = {Errc::closed, "the peer closed the connection"};
    }
    const bool is_the_peers = peer_has_ended_ || (error.code == Errc::closed && !peer_is_watched_);
    if (options_.grace.count() == 0 || (is_passive && (is_the_peers || error.code == Errc::protocol))) {
        end(std::move(error));
        return;
    }
    reason_ = error.text;
    next_try_ = broken_since_;
    const bool may_have_ended = is_passive && error.code == Errc::reset && !peer_was_watched_;
    const seconds grace = may_have_ended ? std::min(options_.grace, grace_after_reset) : options_.grace;
    // A connection that brought nothing counts as none: the time goes on, and the pauses grow.
    const uint64_t progress = taken_ + replay_.begin();
    if (progress != progress_ || broken_since_ - made_again_ > no_connection) {
        progress_ = progress;
        give_up_ = broken_since_ + grace;
        pause_ = first_pause;
    } else {
        next_try_ = broken_since_ + jittered(pause_);
        pause_ = std::min(2 * pause_, longest_pause);
    }
    log_debug("the connection with {} broke ({}): {} s to make it again", options_.name, reason_, grace.count());
    changed_.notify_all();
}

// The stream goes on over this connection; the peer has got to `received`.
Result<> ResumableTransport::begin_again(std::unique_ptr<Transport> transport, uint64_t received) {
    if (received < replay_.begin() || received > on_wire_) {
        end({Errc::protocol, "the peer resumed at a place that makes no sense"});
        return std::unexpected(*over_);
    }
    replay_.forget(received);
    on_wire_ = received;
    inner_ = std::move(transport);
    kind_ = inner_->kind();
    told_ = arrived_ = taken_;
    made_again_ = Clock::now();
    const double lost_s = std::chrono::duration<double>(Clock::now() - broken_since_).count();
    log_warning("the connection with {} broke ({}), and was made again over {} after {:.1f} s; sent again: {}",
                options_.name, reason_, kind_, lost_s, counted(replay_.end() - on_wire_, "byte"));
    pump_out(replay_.end());
    changed_.notify_all();
    return {};
}

Result<> ResumableTransport::take_over(std::unique_ptr<Transport> transport, wire::ResumeRequest request) {
    Lock lock(mutex_);
    if (over_) {
        return std::unexpected(*over_);
    }
    const uint32_t attempt = request.attempt;
    if (attempt <= attempt_) {
        return fail(Errc::protocol, "an attempt to resume that comes too late");
    }
    attempt_ = attempt;
    if (inner_) {
        drop_connection();  // the peer knows more
        reason_ = "on the other side";
    }
    stash_.clear();
    stash_begin_ = 0;
    struct {
        uint64_t size = sizeof(wire::ResumeAnswer);
        wire::ResumeAnswer answer;
    } answer{.answer = {taken_}};
    append_bytes(control_, const_bytes(&answer, sizeof answer));
    return begin_again(std::move(transport), request.received);
}

void ResumableTransport::watch_peer(bool is_watched) {
    Lock lock(mutex_);
    peer_is_watched_ = is_watched;
    peer_was_watched_ = peer_was_watched_ || is_watched;
}

void ResumableTransport::peer_ended() {
    Lock lock(mutex_);
    peer_has_ended_ = true;  // what it sent before is still read
    if (!inner_) {
        end({Errc::closed, "the peer closed the connection"});
    }
}

// Until there is a connection, somebody woke us, or the deadline.
void ResumableTransport::wait_broken(Lock & lock, TimePoint deadline) {
    while (!inner_ && !over_ && !std::exchange(woken_, false) && Clock::now() < deadline) {
        if (options_.reopen && !reopening_) {
            reopen(lock, deadline);
            continue;
        }
        changed_.wait_until(lock, std::min(deadline, give_up_));
        if (!inner_ && !reopening_ && Clock::now() >= give_up_) {
            end({Errc::timed_out, formatted("the connection broke ({}), and {} did not come back", reason_,
                                            options_.name)});
        }
    }
}

// One try, or the pause before it. Gives up the lock meanwhile.
void ResumableTransport::reopen(Lock & lock, TimePoint deadline) {
    const TimePoint now = Clock::now();
    if (now < next_try_) {
        changed_.wait_until(lock, std::min({deadline, next_try_, give_up_}));
        return;
    }
    if (now >= give_up_) {
        end({Errc::timed_out, formatted("the connection broke ({}), and could not be made again in {} s", reason_,
                                        options_.grace.count())});
        return;
    }
    reopening_ = true;
    // What was received and not taken is sent again.
    stash_.clear();
    stash_begin_ = 0;
    const Attempt attempt{{taken_, ++attempt_}, taken_ == 0 && replay_.begin() == 0, now + attempt_patience};
    lock.unlock();
    auto again = options_.reopen(attempt);
    lock.lock();
    reopening_ = false;
    changed_.notify_all();
    if (over_) {
        return;
    }
    if (again) {
        (void)begin_again(std::move(again->transport), again->received);
        return;
    }
    const Error & error = again.error();
    log_debug("{}: no new connection yet: {}", options_.name, error.text);
    if (error.code == Errc::closed || error.code == Errc::unavailable) {
        end({error.code, formatted("{}; {}", reason_, error.text)});
        return;
    }
    next_try_ = Clock::now() + jittered(pause_);
    pause_ = std::min(2 * pause_, longest_pause);
}

// The active end's own thread: sees that a connection broke while nobody uses it.
void ResumableTransport::keep() {
    Lock lock(mutex_);
    while (!stopping_ && !over_) {
        if (inner_) {
            if (options_.tend) {
                lock.unlock();
                options_.tend();
                lock.lock();
            }
            changed_.wait_for(lock, look_every, [this] { return stopping_ || !inner_; });
            if (inner_ && waiting_ == 0 && !stopping_) {
                const auto inner = inner_;
                looking_ = true;
                lock.unlock();
                const auto ready = inner->wait({.read = true}, Clock::now(), microseconds{0});
                lock.lock();
                looking_ = false;
                changed_.notify_all();
                if (!ready) {
                    broke(inner, ready.error());
                } else if (inner_ == inner && waiting_ == 0 && *ready) {
                    pump_in();
                }
                pump_out(replay_.end());
                probe();
            }
        } else if (waiting_ == 0 && !reopening_) {
            reopen(lock, Clock::now() + look_every);
        } else {
            changed_.wait_for(lock, look_every);
        }
    }
    if (over_ && !stopping_ && when_lost_) {
        const Error error = *over_;
        lock.unlock();
        when_lost_(error);
    }
}

}  // namespace caravan::net
