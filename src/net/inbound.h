// Reads messages from a transport: small ones in place from a buffer, long payloads directly into their destination.
// Calls block. One thread, except for limit_silence() and check_silence().
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <vector>

#include "net/polling.h"
#include "net/transport.h"

namespace caravan::net {

class Inbound {
public:
    // `already` are bytes received before this object existed. `stall` is how long the peer may pause inside a message.
    // Between messages it may be silent without limit, unless limit_silence() sets one.
    Inbound(Transport & transport, ConstBytes already, std::chrono::nanoseconds stall, Polling polling);

    // Returns at least `size` bytes (at most max_peek) without consuming them. `at_boundary`: no message has begun, so the
    // peer may be silent before the first byte. Errc::timed_out: the peer stalled, or was silent for too long.
    static constexpr size_t max_peek = 64 * 1024;
    Result<ConstBytes> peek(size_t size, bool at_boundary = false);
    void take(size_t size);

    // Waits for more bytes, for at most `time`. Also true if the connection has broken, or on wake().
    bool arrives_within(microseconds time);

    // Sets how long the peer may be silent between messages; 0: no limit. Any thread, at any time.
    void limit_silence(milliseconds limit);
    // Errc::timed_out if the peer has been silent for too long since `since`. Any thread.
    Result<> check_silence(TimePoint since) const;
    // True after peek() has failed because of limit_silence().
    bool was_silent() const { return was_silent_; }

    Result<> read_into(MutableBytes dest);
    // Passes `size` bytes to `sink` in pieces as they arrive: for data without a destination buffer.
    Result<> read_pieces(uint64_t size, const std::function<void(ConstBytes)> & sink);

    // Bytes received and not yet consumed.
    size_t buffered_size() const { return end_ - begin_; }

    uint64_t bytes_taken() const { return bytes_taken_; }

private:
    // These wait for data or wake(). wait_inside(): without a deadline the peer has stalled.
    Result<> wait_inside(std::optional<TimePoint> deadline);
    Result<> wait_between(TimePoint silent_since);
    ConstBytes buffered() const { return ConstBytes(buffer_).subspan(begin_, end_ - begin_); }

    Transport & transport_;
    const std::chrono::nanoseconds stall_;
    Polling polling_;
    std::vector<std::byte> buffer_;
    size_t begin_ = 0, end_ = 0;
    uint64_t bytes_taken_ = 0;
    bool was_silent_ = false;
    std::atomic<milliseconds> silence_limit_{milliseconds(0)};
};

// Sends all parts. `stall` bounds the time without progress (Errc::timed_out).
Result<> send_all(Transport & transport, std::vector<ConstBytes> parts, std::chrono::nanoseconds stall);

// Fills `bytes` and receives nothing beyond them.
Result<> receive_whole(Transport & transport, MutableBytes bytes, TimePoint deadline);

}  // namespace caravan::net
