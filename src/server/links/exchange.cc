#include "server/links/exchange.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/formatted.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

constexpr uint64_t left = UINT64_MAX;  // in place of a number: the sender takes part no longer

// Errc::closed and Errc::reset would mean that the client has left.
Error broken(const Peer & peer, const Error & error) {
    return {error.code == Errc::closed || error.code == Errc::reset ? Errc::unavailable : error.code,
            formatted("the link with rank {} of the group broke: {}", peer.rank, error.text)};
}

// Reports the phases of a step to the observer, if there is one.
class Phases {
public:
    explicit Phases(const Exchange::Observer & observer) : observer_(observer) {
        if (observer_) {
            since_ = Clock::now();
        }
    }
    ~Phases() {
        if (observer_) {
            observer_(phase_, since_, Clock::now());
        }
    }
    Phases(const Phases &) = delete;

    void enter(Exchange::Phase next) {
        if (observer_ && next != phase_) {
            const TimePoint now = Clock::now();
            observer_(std::exchange(phase_, next), since_, now);
            since_ = now;
        }
    }

private:
    const Exchange::Observer & observer_;
    Exchange::Phase phase_ = Exchange::Phase::wait;
    TimePoint since_{};
};

}  // namespace

Result<> Exchange::run(std::span<Transfer> transfers, bool is_valid, size_t size, bool overwrites, const Consumer & consume,
                       const std::atomic<bool> & is_cancelled) {
    is_valid_ = is_valid;
    for (Transfer & transfer : transfers) {
        transfer.header.is_valid = header_size_ == 0 ? 1 : 0;
        if (transfer.size && transfer.target == nullptr) {
            std::vector<std::byte> & window = transfer.peer->window;
            window.resize(std::max(window.size(), std::min(*transfer.size, tunable::reduction_window)));
        }
    }
    size_t done = 0;
    Stall stall;
    Phases phases(observer_);
    for (;;) {
        bool has_moved = false, is_complete = true, have_all_begun = true;
        size_t common = size;
        for (Transfer & transfer : transfers) {
            const auto sent = send(transfer);
            const auto received = sent ? receive(transfer, done) : sent;
            if (!received) {
                return std::unexpected(received.error());
            }
            has_moved = has_moved || *sent > 0 || *received > 0;
            stall.moved += *sent + *received;
            have_all_begun = have_all_begun && (transfer.received > 0 || to_receive(transfer) == 0);
            is_complete = is_complete && transfer.sent == to_send(transfer) && transfer.received == to_receive(transfer);
            if (transfer.size) {
                common = std::min(common, without_header(transfer.received));
            }
            if (transfer.data && overwrites) {
                common = std::min(common, without_header(transfer.sent));
            }
        }
        if (have_all_begun) {
            phases.enter(Phase::transfer);
        }
        for (size_t end; done < size && (end = std::min(size, done + tunable::reduction_piece)) <= common; done = end) {
            phases.enter(Phase::add);
            consume(done, end);
            phases.enter(Phase::transfer);
        }
        if (is_complete) {
            for (const Transfer & transfer : transfers) {
                transfer.peer->messages_sent += transfer.data ? 1 : 0;
                transfer.peer->messages_received += transfer.size ? 1 : 0;
            }
            return {};
        }
        if (has_moved) {
            continue;
        }
        if (auto waited = wait(transfers, stall, is_cancelled); !waited) {
            return waited;
        }
    }
}

// As the client's Stream treats a server that sends single bytes.
void Exchange::Stall::update(TimePoint now) {
    const std::chrono::duration<double> bought(static_cast<double>(std::exchange(moved, 0)) / tunable::min_reduction_rate);
    if (since == TimePoint()) {
        since = moved_at = now;
    } else if (bought.count() > 0) {
        since = bought >= now - since ? now : since + std::chrono::duration_cast<Clock::duration>(bought);
        moved_at = now;
    }
}

// Returns the number of bytes sent.
Result<size_t> Exchange::send(Transfer & transfer) const {
    if (transfer.sent == to_send(transfer)) {
        return 0;
    }
    const wire::ReduceHeader header{.number = transfer.peer->messages_sent,
                                    .size = transfer.data->size(),
                                    .is_valid = static_cast<uint8_t>(is_valid_ ? 1 : 0)};
    const std::array parts{const_bytes(&header, header_size_).subspan(std::min(transfer.sent, header_size_)),
                           transfer.data->subspan(without_header(transfer.sent))};
    const auto sent = transfer.peer->link->send(parts);
    if (!sent) {
        return std::unexpected(broken(*transfer.peer, sent.error()));
    }
    transfer.sent += *sent;
    return *sent;
}

// Returns the number of bytes received. Reads nothing of the next message, nor data that has no place in the window; `done`
// bytes of it were consumed.
Result<size_t> Exchange::receive(Transfer & transfer, size_t done) const {
    if (transfer.received == to_receive(transfer)) {
        return 0;
    }
    std::vector<std::byte> & window = transfer.peer->window;
    const size_t at = without_header(transfer.received), size = *transfer.size;
    std::array<MutableBytes, 2> parts;
    parts[0] = mutable_bytes(&transfer.header, header_size_).subspan(std::min(transfer.received, header_size_));
    if (at < size && transfer.target != nullptr) {
        parts[1] = {transfer.target + at, size - at};
    } else if (at < size) {
        const size_t room = std::min({size - at, done + window.size() - at, window.size() - at % window.size()});
        parts[1] = MutableBytes(window).subspan(at % window.size(), room);
    }
    if (parts[0].empty() && parts[1].empty()) {
        return 0;
    }
    const auto received = transfer.peer->link->receive(parts);
    if (!received) {
        return std::unexpected(broken(*transfer.peer, received.error()));
    }
    const bool had_header = transfer.received >= header_size_;
    transfer.received += *received;
    if (!had_header && transfer.received >= header_size_) {
        if (auto good = check(transfer); !good) {
            return std::unexpected(good.error());
        }
    }
    return *received;
}

Result<> Exchange::check(const Transfer & transfer) const {
    const uint64_t number = transfer.header.number, size = transfer.header.size;
    const Peer & peer = *transfer.peer;
    if (number == left) {
        return fail(Errc::unavailable, "rank {} has left the group", peer.rank);
    }
    if (const unsigned is_valid = transfer.header.is_valid; is_valid > 1) {
        return fail(Errc::protocol,
                    "rank {} of the group marked its data with {}, which means neither valid (1) nor not valid (0)", peer.rank,
                    is_valid);
    }
    if (number != peer.messages_received || size != *transfer.size) {
        return fail(Errc::protocol, "rank {} of the group sent message {} with {} bytes instead of {} with {} bytes", peer.rank,
                    number, size, peer.messages_received, *transfer.size);
    }
    return {};
}

// Until something can move, or a turn has passed.
Result<> Exchange::wait(std::span<Transfer> transfers, Stall & stall, const std::atomic<bool> & is_cancelled) const {
    const TimePoint now = Clock::now();
    stall.update(now);
    if (is_cancelled.load(std::memory_order_relaxed)) {
        return fail(Errc::unavailable, "the client left");
    }
    if (auto goes_on = interrupt_ ? interrupt_(stall.since) : Result<>(); !goes_on) {
        return goes_on;
    }
    const auto is_waiting = [this](const Transfer & transfer) {
        return transfer.sent < to_send(transfer) || transfer.received < to_receive(transfer);
    };
    if (now - stall.since >= patience_) {
        const size_t rank = std::ranges::find_if(transfers, is_waiting)->peer->rank;
        const double patience = std::chrono::duration<double>(patience_).count();
        if (now - stall.moved_at >= patience_) {
            return fail(Errc::timed_out, "rank {} of the group sent nothing for {:g} s", rank, patience);
        }
        return fail(Errc::timed_out, "rank {} of the group sent less than {} bytes/s for {:g} s", rank,
                    tunable::min_reduction_rate, patience);
    }
    // Each peer in turn: what the others send meanwhile is noticed at the end of the turn, and the step needs them all anyway.
    // So turns get longer while nothing moves, but all together allow to notice a cancellation in time.
    const auto waiting = static_cast<size_t>(std::ranges::count_if(transfers, is_waiting));
    const milliseconds longest = tunable::reduction_cancel_interval / waiting;
    const auto waited = std::chrono::duration_cast<milliseconds>(now - stall.moved_at);
    const milliseconds turn = waiting == 1 ? longest : std::clamp(waited / 2, tunable::reduction_turn, longest);
    const TimePoint spin_end = stall.moved_at + tunable::reduction_spin;
    for (Transfer & transfer : transfers) {
        if (!is_waiting(transfer)) {
            continue;
        }
        const TimePoint begin = Clock::now();
        const auto spin = std::chrono::duration_cast<microseconds>(std::max(spin_end - begin, Clock::duration(0)));
        const auto ready = transfer.peer->link->wait(
            {.read = transfer.received < to_receive(transfer), .write = transfer.sent < to_send(transfer)}, begin + turn, spin);
        if (!ready) {
            return std::unexpected(broken(*transfer.peer, ready.error()));
        }
        if (*ready) {
            return {};
        }
    }
    return {};
}

void Exchange::leave(std::span<Peer> peers, std::span<Transfer> unfinished) {
    if (header_size_ == 0) {
        std::ranges::for_each(peers, [](const Peer & peer) { peer.link->break_off(); });
        return;
    }
    const TimePoint deadline = Clock::now() + leave_time_;
    const auto is_begun = [this](const Transfer & transfer) { return transfer.sent > 0 && transfer.sent < to_send(transfer); };
    for (Transfer & transfer : unfinished) {
        for (bool works = true; works && is_begun(transfer);) {
            const auto sent = send(transfer);
            works = sent && (*sent || transfer.peer->link->wait({.write = true}, deadline, microseconds(0)).value_or(false));
        }
    }
    const wire::ReduceHeader last{.number = left, .size = 0, .is_valid = 0};
    for (const Peer & peer : peers) {
        const auto open = std::ranges::find(unfinished, &peer, &Transfer::peer);
        const std::array parts{const_bytes(&last, sizeof last)};
        if ((open != unfinished.end() && is_begun(*open)) || peer.link->send(parts).value_or(0) < sizeof last) {
            peer.link->break_off();
        }
    }
}

}  // namespace caravan::server
