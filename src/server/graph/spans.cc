#include "server/graph/spans.h"

namespace caravan::server {

void Spans::record(uint8_t what, TimePoint begin, TimePoint end) {
    if (!recording_) {
        return;
    }
    if (spans_.size() == wire::max_recorded_spans) {
        spans_.pop_front();
    }
    spans_.push_back({nanoseconds_of(begin), nanoseconds_of(end), what});
}

void Spans::take(wire::SpansReply & reply) {
    for (; reply.count < wire::spans_per_reply && !spans_.empty(); spans_.pop_front()) {
        reply.spans[reply.count] = spans_.front();
        reply.count = reply.count + 1;
    }
}

}  // namespace caravan::server
