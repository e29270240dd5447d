#include "client/session/idle_writes.h"

#include <algorithm>
#include <utility>

#include "tunables/client.h"

namespace caravan::client {

void normalize(Ranges & ranges) {
    std::ranges::sort(ranges, {}, &Range::begin);
    size_t kept = 0;
    for (const Range & range : ranges) {
        if (kept > 0 && range.begin <= ranges[kept - 1].end) {
            ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
        } else {
            ranges[kept++] = range;
        }
    }
    ranges.resize(kept);
}

bool touches(const Ranges & ranges, const Range & range) {
    const auto next = std::ranges::lower_bound(ranges, range.end, {}, &Range::begin);
    return next != ranges.begin() && std::prev(next)->overlaps(range);
}

bool covers(const Ranges & ranges, const Range & range) {
    const auto next = std::ranges::upper_bound(ranges, range.begin, {}, &Range::begin);
    return next != ranges.begin() && std::prev(next)->end >= range.end;
}

bool IdleWrites::hold(const Range & range, const wire::Region & region, uint64_t offset, ConstBytes data) {
    if (std::ranges::find(idle_, range) == idle_.end()) {
        return false;
    }
    size_t others = 0;
    HeldWrite * same = nullptr;
    for (HeldWrite & held : held_) {
        if (held.range == range) {
            same = &held;
        } else if (held.range.overlaps(range)) {
            return false;
        } else {
            others += held.data.size();
        }
    }
    if (others + data.size() > tunable::max_idle_bytes) {
        return false;
    }
    if (same == nullptr) {
        same = &held_.emplace_back();
        same->range = range;
    }
    same->region = region;
    same->offset = offset;
    same->data.assign(data.begin(), data.end());
    return true;
}

void IdleWrites::record_sent(const Range & range) {
    if (!is_stopped_ && sent_since_launch_.size() < tunable::max_idle_regions) {
        sent_since_launch_.push_back(range);
    }
}

std::vector<HeldWrite> IdleWrites::take_overlapping(const Range & range) {
    std::vector<HeldWrite> taken;
    std::erase_if(held_, [&](HeldWrite & held) {
        if (!held.range.overlaps(range)) {
            return false;
        }
        taken.push_back(std::move(held));
        return true;
    });
    return taken;
}

std::vector<HeldWrite> IdleWrites::take_for_launch(const Footprint & graph) {
    const auto is_void = [&](const Range & range) {
        return !touches(graph.touched, range) && covers(graph.overwritten, range);
    };
    const auto is_seen = [&](const Range & range) {
        return touches(graph.touched, range) || (touches(graph.overwritten, range) && !covers(graph.overwritten, range));
    };
    std::vector<HeldWrite> taken;
    std::erase_if(held_, [&](HeldWrite & held) {
        if (is_seen(held.range)) {
            taken.push_back(std::move(held));
            return true;
        }
        return is_void(held.range);
    });
    std::erase_if(idle_, is_seen);
    for (const Range & range : sent_since_launch_) {
        if (idle_.size() < tunable::max_idle_regions && !is_seen(range) && std::ranges::find(idle_, range) == idle_.end()) {
            idle_.push_back(range);
        }
    }
    sent_since_launch_.clear();
    return taken;
}

std::vector<HeldWrite> IdleWrites::stop() {
    is_stopped_ = true;
    sent_since_launch_.clear();
    idle_.clear();
    return std::exchange(held_, {});
}

void IdleWrites::forget(const Range & range) {
    const auto inside = [&](const Range & other) { return other.overlaps(range); };
    std::erase_if(sent_since_launch_, inside);
    std::erase_if(idle_, inside);
    std::erase_if(held_, [&](const HeldWrite & held) { return inside(held.range); });
}

}  // namespace caravan::client
