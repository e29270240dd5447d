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

void Spans::take(wire::SpansAnswer & answer) {
    for (; answer.count < wire::spans_per_answer && !spans_.empty(); spans_.pop_front()) {
        answer.spans[answer.count] = spans_.front();
        answer.count = answer.count + 1;
    }
}

}  // namespace caravan::server
