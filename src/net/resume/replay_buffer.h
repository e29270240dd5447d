// Sent bytes that the peer has not acknowledged.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace caravan::net {

// Keeps the bytes of a stream between the positions begin() and end(), in a ring that grows as needed.
class ReplayBuffer {
public:
    uint64_t begin() const { return begin_; }
    uint64_t end() const { return end_; }
    void append(ConstBytes bytes);
    // Until end_loan(), bytes appended out of `bytes`, in order, are referenced there and not copied.
    void lend(ConstBytes bytes) { lent_ = bytes; }
    void end_loan();
    void truncate(uint64_t end) { end_ = end; }  // not before begin()
    void forget(uint64_t begin) { begin_ = begin; }  // not after end()
    // The contiguous bytes from `position` on, at most `size`.
    ConstBytes at(uint64_t position, uint64_t size) const;

private:
    void reserve(uint64_t size);
    void store(uint64_t position, ConstBytes bytes);
    uint64_t lent_end() const { return *lent_at_ + lent_.size(); }

    std::vector<std::byte> ring_;  // its size is a power of two
    ConstBytes lent_;
    std::optional<uint64_t> lent_at_;  // position of its first byte, once any of its bytes was appended
    uint64_t begin_ = 0, end_ = 0;
};

}  // namespace caravan::net
