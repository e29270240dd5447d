#include "client/session/outbox.h"

#include <algorithm>
#include <utility>

#include "tunables/client.h"

namespace caravan::client {

MutableBytes Outbox::append(size_t size) {
    if (segments_.empty() || !segments_.back().growing) {
        Segment segment;
        if (!spare_.empty()) {
            segment.own = std::move(spare_.back());
            spare_.pop_back();
        }
        segment.growing = true;
        segments_.push_back(std::move(segment));
    }
    std::vector<std::byte> & bytes = segments_.back().own;
    const size_t at = bytes.size();
    bytes.resize(at + size);
    queued_ += size;
    return MutableBytes(bytes).subspan(at);
}

void Outbox::append_external(ConstBytes payload) {
    if (!payload.empty()) {
        Segment segment;
        segment.external = payload;
        segments_.push_back(std::move(segment));
        queued_ += payload.size();
    }
}

void Outbox::append_hole(uint64_t begin, std::vector<std::byte> bytes) {
    queued_ += bytes.size();
    Segment segment;
    segment.own = std::move(bytes);
    segments_.push_back(std::move(segment));
    holes_.push_back(begin);
}

void Outbox::fill(uint64_t begin) { std::erase(holes_, begin); }

size_t Outbox::next_parts(std::span<ConstBytes> parts) const {
    size_t count = 0;
    uint64_t room = limit() - sent_;
    for (auto it = segments_.begin(); it != segments_.end() && count < parts.size() && room > 0; ++it) {
        if (const ConstBytes rest = it->rest(); !rest.empty()) {
            parts[count++] = rest.first(std::min<uint64_t>(rest.size(), room));
            room -= parts[count - 1].size();
        }
    }
    return count;
}

void Outbox::mark_sent(size_t bytes) {
    sent_ += bytes;
    while (!segments_.empty()) {
        Segment & front = segments_.front();
        const size_t step = std::min(bytes, front.rest().size());
        front.sent += step;
        bytes -= step;
        if (!front.rest().empty()) {
            break;
        }
        retire_front();
    }
}

void Outbox::retire_front() {
    Segment & segment = segments_.front();
    if (segment.growing && spare_.size() < tunable::max_spare_segments) {
        segment.own.clear();
        spare_.push_back(std::move(segment.own));
    }
    segments_.pop_front();
}

void Outbox::close() {
    closed_ = std::exchange(segments_, {});
    holes_.clear();
    sent_ = queued_;
}

}  // namespace caravan::client
