// Reading messages from a transport: small ones in place from a buffer, long payloads straight to where they belong.
// Blocking. One thread.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "net/transport.h"

namespace caravan::net {

class Inbound {
public:
    // `already` was received before this object existed. `stall` is how long a peer may pause inside a message;
    // between messages it may be silent for ever, or as limit_silence() has it.
    Inbound(Transport & transport, ConstBytes already, std::chrono::nanoseconds stall, microseconds spin);

    // At least `size` bytes (at most max_peek) without taking them. `at_boundary`: silence is allowed before the first.
    static constexpr size_t max_peek = 64 * 1024;
    Result<ConstBytes> peek(size_t size, bool at_boundary = false);
    void take(size_t size);

    // How long the peer may be silent between messages; 0: for ever. Any thread, at any time.
    void limit_silence(seconds limit);

    Result<> read_into(MutableBytes dest);
    // Takes `size` bytes in pieces as they come: for what has no place to go directly.
    Result<> read_pieces(uint64_t size, const std::function<void(ConstBytes)> & sink);

    // What has been received and not taken.
    size_t buffered_size() const { return end_ - begin_; }

    uint64_t bytes_taken() const { return bytes_taken_; }

private:
    Result<> wait(TimePoint deadline);
    Result<> wait_between(TimePoint silent_since);
    ConstBytes buffered() const { return ConstBytes(buffer_).subspan(begin_, end_ - begin_); }

    Transport & transport_;
    const std::chrono::nanoseconds stall_;
    const microseconds spin_;
    std::vector<std::byte> buffer_;
    size_t begin_ = 0, end_ = 0;
    uint64_t bytes_taken_ = 0;
    std::atomic<seconds> silence_limit_{seconds(0)};
};

// Sends everything. `stall` bounds the time without progress.
Result<> send_all(Transport & transport, std::vector<ConstBytes> parts, std::chrono::nanoseconds stall);

// Fills `bytes`, and takes nothing beyond them.
Result<> receive_whole(Transport & transport, MutableBytes bytes, TimePoint deadline);

}  // namespace caravan::net
