// A rate limit for log lines: a token bucket. The caller passes the time in. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/clock.h"

namespace caravan {

class LineLimit {
public:
    // Admits `burst` lines at once and `per_second` lines a second in the long run. A burst of less than one line still
    // admits one line after a pause.
    LineLimit(double burst, double per_second) : burst_(std::max(burst, 1.0)), per_second_(per_second), tokens_(burst) {}

    // Returns false and counts the line if it exceeds the limit.
    bool admits(TimePoint now) {
        if (last_ != TimePoint()) {
            tokens_ = std::min(burst_, tokens_ + per_second_ * std::chrono::duration<double>(now - last_).count());
        }
        last_ = now;
        if (tokens_ < 1) {
            ++suppressed_;
            return false;
        }
        tokens_ -= 1;
        return true;
    }
    // Returns tokens of lines that were admitted and not written.
    void give_back(double lines) { tokens_ = std::min(burst_, tokens_ + lines); }
    // The number of suppressed lines since the previous call.
    uint64_t take_suppressed() { return std::exchange(suppressed_, 0); }

private:
    double burst_, per_second_, tokens_;
    TimePoint last_{};
    uint64_t suppressed_ = 0;
};

}  // namespace caravan
