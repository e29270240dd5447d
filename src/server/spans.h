// What a session does, and when: recorded for a client that asks for it (CLOCK, SPANS). One thread.
#pragma once

#include <deque>

#include "base/clock.h"
#include "wire/native.h"

namespace caravan::server {

class Spans {
public:
    void begin_recording() { recording_ = true; }
    bool is_recording() const { return recording_; }

    // `what`: a command, or wire::computing(device).
    void record(uint8_t what, TimePoint begin, TimePoint end);
    // The oldest, as many as fit, which are forgotten here.
    void take(wire::SpansAnswer & answer);

    static uint64_t nanoseconds_of(TimePoint time) {
        return static_cast<uint64_t>(std::chrono::nanoseconds(time.time_since_epoch()).count());
    }

private:
    bool recording_ = false;
    std::deque<wire::Span> spans_;
};

}  // namespace caravan::server
