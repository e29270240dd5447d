#include "server/session/stale_memory.h"

#include <algorithm>
#include <iterator>

namespace caravan::server {

void StaleMemory::mark(uint64_t begin, uint64_t end) {
    if (begin >= end) {
        return;
    }
    auto first = ends_.upper_bound(begin);
    if (first != ends_.begin() && std::prev(first)->second >= begin) {
        --first;
    }
    while (first != ends_.end() && first->first <= end) {
        begin = std::min(begin, first->first);
        end = std::max(end, first->second);
        first = ends_.erase(first);
    }
    ends_.emplace_hint(first, begin, end);
    bound();
}

void StaleMemory::clear(uint64_t begin, uint64_t end) {
    if (begin >= end || ends_.empty()) {
        return;
    }
    auto first = ends_.upper_bound(begin);
    if (first != ends_.begin() && std::prev(first)->second > begin) {
        --first;
    }
    while (first != ends_.end() && first->first < end) {
        const auto [old_begin, old_end] = *first;
        first = ends_.erase(first);
        if (old_begin < begin) {
            ends_.emplace(old_begin, begin);
        }
        if (old_end > end) {
            ends_.emplace(end, old_end);
        }
    }
    bound();
}

bool StaleMemory::overlaps(uint64_t begin, uint64_t end) const {
    if (begin >= end || ends_.empty()) {
        return false;
    }
    const auto after = ends_.lower_bound(end);
    return after != ends_.begin() && std::prev(after)->second > begin;
}

void StaleMemory::bound() {
    if (ends_.size() > max_ranges) {
        const uint64_t begin = ends_.begin()->first, end = std::prev(ends_.end())->second;
        ends_.clear();
        ends_.emplace(begin, end);
    }
}

}  // namespace caravan::server
