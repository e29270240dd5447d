#include "net/resume/replay_buffer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace caravan::net {

void ReplayBuffer::store(uint64_t position, ConstBytes bytes) {
    while (!bytes.empty()) {
        const size_t to = position & (ring_.size() - 1);
        const size_t step = std::min(bytes.size(), ring_.size() - to);
        std::memcpy(ring_.data() + to, bytes.data(), step);
        position += step;
        bytes = bytes.subspan(step);
    }
}

void ReplayBuffer::reserve(uint64_t size) {
    if (size <= ring_.size()) {
        return;
    }
    ReplayBuffer larger;
    larger.ring_.resize(std::bit_ceil(std::max<uint64_t>(size, 4096)));
    for (uint64_t position = begin_; position < end_;) {
        const ConstBytes piece = at(position, end_ - position);
        larger.store(position, piece);
        position += piece.size();
    }
    ring_ = std::move(larger.ring_);
}

void ReplayBuffer::append(ConstBytes bytes) {
    const auto * lent_from = lent_.data();
    const bool is_lent = !lent_.empty() && bytes.data() >= lent_from &&
                         bytes.data() + bytes.size() <= lent_from + lent_.size();
    if (is_lent) {
        lent_at_ = end_ - static_cast<uint64_t>(bytes.data() - lent_from);
    } else {
        reserve(end_ - begin_ + bytes.size());
        store(end_, bytes);
    }
    end_ += bytes.size();
}

void ReplayBuffer::end_loan() {
    if (lent_at_) {
        const uint64_t from = std::max(begin_, *lent_at_), to = std::min(end_, lent_end());
        reserve(end_ - begin_);
        if (from < to) {
            store(from, lent_.subspan(from - *lent_at_, to - from));
        }
    }
    lent_at_.reset();
    lent_ = {};
}

ConstBytes ReplayBuffer::at(uint64_t position, uint64_t size) const {
    if (size == 0) {
        return {};
    }
    if (lent_at_ && position >= *lent_at_ && position < lent_end()) {
        const uint64_t from = position - *lent_at_;
        return lent_.subspan(from, std::min<uint64_t>(size, lent_.size() - from));
    }
    if (lent_at_ && position < *lent_at_) {
        size = std::min(size, *lent_at_ - position);
    }
    const size_t from = position & (ring_.size() - 1);
    return ConstBytes(ring_).subspan(from, std::min<uint64_t>(size, ring_.size() - from));
}

}  // namespace caravan::net
