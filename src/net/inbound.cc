#include "net/inbound.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/config.h"

namespace caravan::net {
namespace {

constexpr size_t buffer_size = 4 * Inbound::max_peek;

std::unexpected<Error> stalled(std::chrono::nanoseconds stall) {
    return fail(Errc::timed_out, "the peer stalled for {} s in the middle of a message",
                std::chrono::duration_cast<seconds>(stall).count());
}

// When a stall is over: it begins with the first wait after progress. A wake-up is no progress. Reads the clock only for waits.
class StallLimit {
public:
    explicit StallLimit(std::chrono::nanoseconds limit) : limit_(limit) {}

    void progress() { end_ = no_deadline; }
    // For the next wait; nothing if the stall has lasted too long.
    std::optional<TimePoint> deadline() {
        const TimePoint now = Clock::now();
        if (end_ == no_deadline) {
            end_ = now + limit_;
        }
        return now < end_ ? std::optional(end_) : std::nullopt;
    }

private:
    const std::chrono::nanoseconds limit_;
    TimePoint end_ = no_deadline;
};

}  // namespace

Inbound::Inbound(Transport & transport, ConstBytes already, std::chrono::nanoseconds stall, Polling polling)
    : transport_(transport), stall_(stall), polling_(polling), buffer_(std::max(buffer_size, already.size())) {
    std::ranges::copy(already, buffer_.begin());
    end_ = already.size();
}

Result<> Inbound::wait_inside(std::optional<TimePoint> deadline) {
    if (!deadline) {
        return stalled(stall_);
    }
    return transport_.wait({.read = true}, *deadline, polling_.time_inside()).transform([](bool) {});
}

// limit_silence() wakes it up.
Result<> Inbound::wait_between(TimePoint silent_since) {
    const milliseconds limit = silence_limit_;
    const TimePoint deadline = limit.count() == 0 ? no_deadline : silent_since + limit;
    auto ready = transport_.wait({.read = true}, deadline, polling_.time());
    if (!ready) {
        return std::unexpected(ready.error());
    }
    polling_.sample(silent_since);
    auto goes_on = *ready ? Result<>() : check_silence(silent_since);
    was_silent_ = !goes_on;
    return goes_on;
}

Result<> Inbound::check_silence(TimePoint since) const {
    const milliseconds limit = silence_limit_;
    if (limit.count() > 0 && Clock::now() - since >= limit) {
        return fail(Errc::timed_out, "idle for {:g} s while other clients wait for a session",
                    std::chrono::duration<double>(limit).count());
    }
    return {};
}

bool Inbound::arrives_within(microseconds time) {
    const auto ready = transport_.wait({.read = true}, Clock::now() + time, std::min(time, polling_.time_inside()));
    return !ready || *ready;
}

void Inbound::limit_silence(milliseconds limit) {
    silence_limit_ = limit;
    transport_.wake();
}

Result<ConstBytes> Inbound::peek(size_t size, bool at_boundary) {
    if (buffer_.size() - begin_ < size) {
        std::ranges::copy(buffered(), buffer_.begin());
        end_ -= begin_;
        begin_ = 0;
    }
    StallLimit limit(stall_);
    for (TimePoint silent_since{}; end_ - begin_ < size;) {
        const std::array parts{MutableBytes(buffer_).subspan(end_)};
        const auto got = transport_.receive(parts);
        if (!got) {
            return std::unexpected(got.error());
        }
        end_ += *got;
        if (*got > 0) {
            limit.progress();
        } else if (at_boundary && end_ == begin_) {
            if (silent_since == TimePoint{}) {
                silent_since = Clock::now();
            }
            if (auto waited = wait_between(silent_since); !waited) {
                return std::unexpected(waited.error());
            }
        } else if (auto waited = wait_inside(limit.deadline()); !waited) {
            return std::unexpected(waited.error());
        }
    }
    return buffered();
}

void Inbound::take(size_t size) {
    bytes_taken_ += size;
    begin_ += size;
    if (begin_ == end_) {
        begin_ = end_ = 0;
    }
}

Result<> Inbound::read_into(MutableBytes dest) {
    const size_t here = std::min(dest.size(), end_ - begin_);
    std::ranges::copy(buffered().first(here), dest.begin());
    take(here);
    StallLimit limit(stall_);
    for (dest = dest.subspan(here); !dest.empty();) {
        const std::array parts{dest};
        const auto got = transport_.receive(parts);
        if (!got) {
            return std::unexpected(got.error());
        }
        bytes_taken_ += *got;
        dest = dest.subspan(*got);
        if (*got > 0) {
            limit.progress();
        } else if (auto waited = wait_inside(limit.deadline()); !waited) {
            return waited;
        }
    }
    return {};
}

Result<> Inbound::read_pieces(uint64_t size, const std::function<void(ConstBytes)> & sink) {
    while (size > 0) {
        const auto bytes = peek(1);
        if (!bytes) {
            return std::unexpected(bytes.error());
        }
        const size_t piece = std::min<uint64_t>(size, bytes->size());
        sink(bytes->first(piece));
        take(piece);
        size -= piece;
    }
    return {};
}

Result<> send_all(Transport & transport, std::vector<ConstBytes> parts, std::chrono::nanoseconds stall) {
    size_t first = 0;
    StallLimit limit(stall);
    for (;;) {
        while (first < parts.size() && parts[first].empty()) {
            ++first;
        }
        if (first == parts.size()) {
            return {};
        }
        auto sent = transport.send(std::span(parts).subspan(first));
        if (!sent) {
            return std::unexpected(sent.error());
        }
        if (*sent > 0) {
            limit.progress();
        } else if (const auto deadline = limit.deadline()) {
            auto ready = transport.wait({.write = true}, *deadline, poll_time().value_or(tunable::poll_start));
            if (!ready) {
                return std::unexpected(ready.error());
            }
        } else {
            return fail(Errc::timed_out, "the peer did not read a reply for {} s",
                        std::chrono::duration_cast<seconds>(stall).count());
        }
        for (size_t taken = *sent, i = first; taken > 0; ++i) {
            const size_t step = std::min(taken, parts[i].size());
            parts[i] = parts[i].subspan(step);
            taken -= step;
        }
    }
}

Result<> receive_whole(Transport & transport, MutableBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const std::array parts{bytes};
        const auto got = transport.receive(parts);
        if (!got) {
            return std::unexpected(got.error());
        }
        bytes = bytes.subspan(*got);
        if (!bytes.empty() && Clock::now() >= deadline) {
            return fail(Errc::timed_out, "no reply in time");
        }
        if (*got == 0) {
            const auto ready = transport.wait({.read = true}, deadline, microseconds{0});
            if (!ready) {
                return std::unexpected(ready.error());
            }
        }
    }
    return {};
}

}  // namespace caravan::net
