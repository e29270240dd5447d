// Time that passes for the program: monotonic, but it stands still while the calling thread waits for a server, or works for
// one. What a program does between two calls takes as long on this clock with many far servers as with a near one. Readings of
// different threads cannot be compared exactly.
#pragma once

#include <optional>

#include "base/clock.h"

namespace caravan::client {

class ProgramClock {
public:
    static TimePoint now() { return stopped_at_ ? *stopped_at_ : Clock::now() - stood_still_; }
    static void add_wait(std::chrono::nanoseconds time) { stood_still_ += time; }

    // Stops the clock of this thread while it lives.
    class Pause {
    public:
        Pause() : is_outermost_(!stopped_at_) {
            if (is_outermost_) {
                stopped_at_ = now();
            }
        }
        ~Pause() {
            if (is_outermost_) {
                stood_still_ = Clock::now() - *stopped_at_;
                stopped_at_.reset();
            }
        }
        Pause(const Pause &) = delete;
        Pause & operator=(const Pause &) = delete;

    private:
        const bool is_outermost_;
    };

private:
    inline static thread_local std::chrono::nanoseconds stood_still_{};
    inline static thread_local std::optional<TimePoint> stopped_at_;
};

}  // namespace caravan::client
