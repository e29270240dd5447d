#include "server/links/reduction_group.h"

#include <algorithm>
#include <array>
#include <limits>
#include <thread>

#include "base/formatted.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

constexpr size_t header_size = sizeof(wire::ReduceHeader);
constexpr size_t piece_floats = tunable::reduction_piece / sizeof(float);
constexpr uint64_t left = UINT64_MAX;  // in place of a number: the sender takes part no longer

void add_to(std::span<float> sum, const float * term) {
    for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] += term[i];
    }
}

}  // namespace

ReductionGroup::ReductionGroup(size_t rank, std::vector<net::Transport *> links, milliseconds patience,
                               milliseconds leave_time)
    : rank_(rank), patience_(patience), leave_time_(leave_time) {
    for (size_t i = 0; i < links.size(); ++i) {
        if (i != rank) {
            others_.push_back({.link = links[i], .rank = i, .window = {}});
        }
    }
}

uint64_t ReductionGroup::window_bytes(uint64_t bytes) const {
    return std::min<uint64_t>(bytes, tunable::reduction_window) * others_.size();
}

Result<> ReductionGroup::reduce(std::span<float> data, bool is_valid, const std::atomic<bool> & is_cancelled) {
    if (failure_) {
        return std::unexpected(*failure_);
    }
    const wire::ReduceHeader own{
        .number = number_++, .size = data.size_bytes(), .is_valid = static_cast<uint8_t>(is_valid ? 1 : 0)};
    if (auto done = exchange(data, own, is_cancelled); !done) {
        complete(own, data);
        leave(done.error());
        return done;
    }
    if (!is_valid) {
        return fail(Errc::unavailable, "this rank could not compute its part of the sum");
    }
    for (const Other & other : others_) {
        if (other.header.is_valid == 0) {
            return fail(Errc::unavailable, "rank {} of the group could not compute its part of the sum", other.rank);
        }
    }
    return {};
}

// Sends the rest of a message that was begun.
void ReductionGroup::complete(const wire::ReduceHeader & own, std::span<const float> data) {
    const ConstBytes bytes = const_bytes(data.data(), data.size_bytes());
    const TimePoint deadline = Clock::now() + leave_time_;
    for (Other & other : others_) {
        for (bool works = true; works && other.is_sending;) {
            const auto sent = send(other, own, bytes);
            works = sent && (*sent || other.link->wait({.write = true}, deadline, microseconds(0)).value_or(false));
        }
    }
}

void ReductionGroup::leave(Error error) {
    failure_ = std::move(error);
    const wire::ReduceHeader last{.number = left, .size = 0, .is_valid = 0};
    for (const Other & other : others_) {
        const std::array parts{const_bytes(&last, sizeof last)};
        if (other.is_sending || other.link->send(parts).value_or(0) < sizeof last) {
            other.link->break_off();
        }
    }
}

Result<> ReductionGroup::exchange(std::span<float> data, const wire::ReduceHeader & own,
                                  const std::atomic<bool> & is_cancelled) {
    const size_t total = header_size + data.size_bytes();
    const ConstBytes bytes = const_bytes(data.data(), data.size_bytes());
    for (Other & other : others_) {
        other.sent = other.received = 0;
        other.window.resize(std::max(other.window.size(), std::min(data.size(), tunable::reduction_window / sizeof(float))));
    }
    size_t done = 0;  // elements
    TimePoint idle_since{};
    for (;;) {
        bool has_moved = false, is_complete = true;
        size_t common = data.size_bytes();  // exchanged with all ranks
        for (Other & other : others_) {
            const auto sent = send(other, own, bytes);
            const auto received = sent ? receive(other, data.size_bytes(), done * sizeof(float)) : sent;
            if (!received) {
                return std::unexpected(received.error());
            }
            has_moved = has_moved || *sent || *received;
            is_complete = is_complete && other.sent == total && other.received == total;
            common = std::min({common, other.sent - std::min(other.sent, header_size),
                               other.received - std::min(other.received, header_size)});
        }
        while (done < data.size() && std::min(data.size(), done + piece_floats) * sizeof(float) <= common) {
            const size_t end = std::min(data.size(), done + piece_floats);
            add(data, done, end);
            done = end;
        }
        if (is_complete) {
            return {};
        }
        if (has_moved) {
            idle_since = {};
            continue;
        }
        idle_since = idle_since == TimePoint() ? Clock::now() : idle_since;
        if (auto waited = wait(total, idle_since, is_cancelled); !waited) {
            return waited;
        }
    }
}

// True if bytes were sent. Data that is sent was not added to yet: add() follows it.
Result<bool> ReductionGroup::send(Other & other, const wire::ReduceHeader & own, ConstBytes data) {
    if (other.sent == header_size + data.size()) {
        return false;
    }
    const size_t of_header = std::min(other.sent, header_size);
    const std::array parts{const_bytes(&own, sizeof own).subspan(of_header), data.subspan(other.sent - of_header)};
    const auto sent = other.link->send(parts);
    if (!sent) {
        return fail(sent.error().code, "the link with rank {} of the group broke: {}", other.rank, sent.error().text);
    }
    other.sent += *sent;
    other.is_sending = other.sent > 0 && other.sent < header_size + data.size();
    return *sent > 0;
}

// True if bytes were received. Reads nothing of the next reduction, nor data that has no place in the window.
Result<bool> ReductionGroup::receive(Other & other, size_t size, size_t done) {
    std::array<MutableBytes, 2> parts;
    parts[0] = mutable_bytes(&other.header, sizeof other.header).subspan(std::min(other.received, header_size));
    const size_t at = other.received - std::min(other.received, header_size), window = other.window.size() * sizeof(float);
    if (at < size) {
        const size_t room = std::min({size - at, done + window - at, window - at % window});
        parts[1] = mutable_bytes(other.window.data(), window).subspan(at % window, room);
    }
    if (parts[0].empty() && parts[1].empty()) {
        return false;
    }
    const auto received = other.link->receive(parts);
    if (!received) {
        return fail(received.error().code == Errc::closed ? Errc::unavailable : received.error().code,
                    "the link with rank {} of the group broke: {}", other.rank, received.error().text);
    }
    const bool had_header = other.received >= header_size;
    other.received += *received;
    if (!had_header && other.received >= header_size) {
        if (auto good = check(other, size); !good) {
            return std::unexpected(good.error());
        }
    }
    return *received > 0;
}

Result<> ReductionGroup::check(const Other & other, size_t size) const {
    const uint64_t number = other.header.number, given = other.header.size;
    if (number == left) {
        return fail(Errc::unavailable, "rank {} has left the group", other.rank);
    }
    if (number + 1 != number_ || given != size || other.header.is_valid > 1) {
        return fail(Errc::protocol, "rank {} of the group sent {} bytes for sum {} instead of {} bytes for sum {}", other.rank,
                    given, number, size, number_ - 1);
    }
    return {};
}

// Until something can move.
Result<> ReductionGroup::wait(size_t total, TimePoint since, const std::atomic<bool> & is_cancelled) {
    if (is_cancelled.load(std::memory_order_relaxed)) {
        return fail(Errc::unavailable, "the client left");
    }
    std::vector<Other *> waiting;
    for (Other & other : others_) {
        if (other.sent < total || other.received < total) {
            waiting.push_back(&other);
        }
    }
    if (Clock::now() - since >= patience_) {
        return fail(Errc::timed_out, "rank {} of the group sent nothing for {:g} s", waiting.front()->rank,
                    std::chrono::duration<double>(patience_).count());
    }
    // The others' progress is noticed at the end of each short wait.
    const milliseconds limit = waiting.size() == 1 ? tunable::reduction_cancel_interval : tunable::reduction_turn;
    for (Other * other : waiting) {
        const auto ready = other->link->wait({.read = other->received < total, .write = other->sent < total},
                                             Clock::now() + limit, tunable::reduction_spin);
        if (!ready) {
            return fail(ready.error().code, "the link with rank {} of the group broke: {}", other->rank, ready.error().text);
        }
        if (*ready) {
            return {};
        }
    }
    return {};
}

// In the order of the ranks, which makes the result the same on all.
void ReductionGroup::add(std::span<float> data, size_t begin, size_t end) {
    const auto place = [&](Other & other) { return other.window.data() + begin % other.window.size(); };
    const std::span<float> own = data.subspan(begin, end - begin);
    if (others_.size() == 1) {  // a sum of two does not depend on the order
        add_to(own, place(others_.front()));
        return;
    }
    std::span<float> sum = own;
    size_t added = 0;
    for (Other & other : others_) {
        if (added == 0 && other.rank < rank_) {
            sum = {place(other), own.size()};
        } else {
            if (other.rank > rank_ && sum.data() != own.data()) {
                add_to(sum, own.data());
                std::ranges::copy(sum, own.begin());
                sum = own;
            }
            add_to(sum, place(other));
        }
        ++added;
    }
    if (sum.data() != own.data()) {  // this is the last rank
        add_to(sum, own.data());
        std::ranges::copy(sum, own.begin());
    }
}

}  // namespace caravan::server
