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

Ranges without(const Ranges & ranges, const Ranges & others) {
    Ranges out;
    for (Range rest : ranges) {
        for (auto other = std::ranges::upper_bound(others, rest.begin, {}, &Range::end);
             other != others.end() && other->begin < rest.end; ++other) {
            if (rest.begin < other->begin) {
                out.push_back({rest.begin, other->begin});
            }
            rest.begin = std::min(rest.end, other->end);
        }
        if (rest.begin < rest.end) {
            out.push_back(rest);
        }
    }
    return out;
}

// Appends the live bytes of a held write, which is held no longer.
void IdleWrites::move_live(RecentWrite & written, std::vector<HeldWrite> & out) {
    const RecentWrite::Held held = std::move(*std::exchange(written.held, std::nullopt));
    for (const Range & piece : written.live) {
        const auto first = held.data.begin() + static_cast<std::ptrdiff_t>(piece.begin - written.range.begin);
        out.push_back({piece, held.region, held.offset + (piece.begin - written.range.begin),
                       {first, first + static_cast<std::ptrdiff_t>(piece.end - piece.begin)}});
    }
}

bool IdleWrites::hold(const Range & range, const wire::Region & region, uint64_t offset, ConstBytes data) {
    const auto written = std::ranges::find(written_, range, &RecentWrite::range);
    if (written == written_.end() || !written->is_idle) {
        return false;
    }
    size_t others = 0;
    for (const RecentWrite & other : written_) {
        if (!other.held || other.range == range) {
            continue;
        }
        if (touches(other.live, range)) {
            return false;
        }
        others += other.held->data.size();
    }
    if (others + data.size() > tunable::max_idle_bytes) {
        return false;
    }
    written->held = RecentWrite::Held{region, offset, {data.begin(), data.end()}};
    written->live = {range};
    return true;
}

void IdleWrites::record_sent(const Range & range) {
    const auto written = std::ranges::find(written_, range, &RecentWrite::range);
    if (written != written_.end()) {
        written->live = {range};
    } else if (!is_stopped_ && written_.size() < tunable::max_idle_regions) {
        written_.push_back({range, {range}, false, std::nullopt});
    }
}

std::vector<HeldWrite> IdleWrites::take_overlapping(const Range & range) {
    std::vector<HeldWrite> taken;
    for (RecentWrite & written : written_) {
        if (written.held && touches(written.live, range)) {
            move_live(written, taken);
        }
    }
    return taken;
}

std::vector<HeldWrite> IdleWrites::take_for_launch(const Footprint & graph) {
    std::vector<HeldWrite> taken;
    std::erase_if(written_, [&](RecentWrite & written) {
        if (std::ranges::any_of(written.live, [&](const Range & piece) { return touches(graph.touched, piece); })) {
            if (written.held) {
                move_live(written, taken);
            }
            return true;
        }
        if (touches(graph.overwritten, written.range)) {
            written.live = without(written.live, graph.overwritten);
        }
        if (written.live.empty()) {
            written.held.reset();
        }
        written.is_idle = true;
        return false;
    });
    return taken;
}

std::vector<HeldWrite> IdleWrites::stop() {
    is_stopped_ = true;
    std::vector<HeldWrite> taken;
    for (RecentWrite & written : written_) {
        if (written.held) {
            move_live(written, taken);
        }
    }
    written_.clear();
    return taken;
}

void IdleWrites::forget(const Range & range) {
    std::erase_if(written_, [&](const RecentWrite & written) { return written.range.overlaps(range); });
}

}  // namespace caravan::client
