// The outgoing bytes of a stream: a batch of copied bytes, payloads in the caller's memory, and holes.
//
// Positions count all bytes that were ever queued. A hole is memory that another connection is still receiving into; nothing
// from the start of its message on is sent before it is filled.
//
// Does no I/O. Threads: guarded by the stream's lock.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace caravan::client {

class Outbox {
public:
    // `size` bytes at the end. Valid until the next append.
    MutableBytes append(size_t size);
    // `payload` must live until it was sent.
    void append_external(ConstBytes payload);
    // The memory of `bytes` is not moved, and lives as long as the outbox if close() is called before it was sent. Nothing from
    // `begin` on (the position of the message's header) is sent before fill(begin).
    void append_hole(uint64_t begin, std::vector<std::byte> bytes);
    void fill(uint64_t begin);

    uint64_t queued() const { return queued_; }
    uint64_t sent() const { return sent_; }
    // Whether bytes may be sent now.
    bool is_ready() const { return sent_ < limit(); }

    // The next bytes to send, in at most `parts.size()` parts. Returns how many parts there are.
    size_t next_parts(std::span<ConstBytes> parts) const;
    // The transport accepted this many of these bytes.
    void mark_sent(size_t bytes);
    // Drops everything that was not sent, but keeps the memory of holes.
    void close();

private:
    struct Segment {
        std::vector<std::byte> own;
        ConstBytes external;  // used if own is empty
        size_t sent = 0;
        bool growing = false;  // append() may extend it
        ConstBytes rest() const { return (own.empty() ? external : ConstBytes(own)).subspan(sent); }
    };

    uint64_t limit() const { return holes_.empty() ? queued_ : holes_.front(); }
    void retire_front();

    std::deque<Segment> segments_;
    std::deque<Segment> closed_;                 // unsent when close() was called
    std::vector<std::vector<std::byte>> spare_;  // memory of sent segments, for reuse
    uint64_t queued_ = 0, sent_ = 0;             // total bytes
    std::deque<uint64_t> holes_;                 // positions where holes begin, ascending
};

}  // namespace caravan::client
