// Time that passes for the program: monotonic, but it stands still while the calling thread waits for a server. What a program
// does between two calls takes as long on this clock with a far server as with a near one. Readings of different threads cannot
// be compared exactly.
#pragma once

#include "base/clock.h"

namespace caravan::client {

class ProgramClock {
public:
    static TimePoint now() { return Clock::now() - waited_; }
    static void add_wait(std::chrono::nanoseconds time) { waited_ += time; }

private:
    inline static thread_local std::chrono::nanoseconds waited_{};
};

}  // namespace caravan::client
