// Begin and end of each command that a session serves, recorded once a client sends CLOCK and fetched with SPANS. Used by
// the session's thread only.
#pragma once

#include <deque>

#include "base/clock.h"
#include "wire/native.h"

namespace caravan::server {

class Spans {
public:
    void begin_recording() { recording_ = true; }
    bool is_recording() const { return recording_; }

    // `what`: a command, or wire::computing(device). Drops the oldest span when wire::max_recorded_spans are recorded.
    void record(uint8_t what, TimePoint begin, TimePoint end);
    // Moves the oldest spans to `reply`, as many as it holds.
    void take(wire::SpansReply & reply);

    static uint64_t nanoseconds_of(TimePoint time) {
        return static_cast<uint64_t>(std::chrono::nanoseconds(time.time_since_epoch()).count());
    }

private:
    bool recording_ = false;
    std::deque<wire::Span> spans_;
};

}  // namespace caravan::server
