// How many lines a log may get: a number at once, and so many a second in the long run. Time is passed in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/clock.h"

namespace caravan {

class LineLimit {
public:
    // A burst of less than one line still admits one line after a pause.
    LineLimit(double burst, double per_second) : burst_(std::max(burst, 1.0)), per_second_(per_second), room_(burst) {}

    // False: this line is one too many, and counted.
    bool admits(TimePoint now) {
        if (last_ != TimePoint()) {
            room_ = std::min(burst_, room_ + per_second_ * std::chrono::duration<double>(now - last_).count());
        }
        last_ = now;
        if (room_ < 1) {
            ++suppressed_;
            return false;
        }
        room_ -= 1;
        return true;
    }
    // Lines that were too many since this was asked last.
    uint64_t take_suppressed() { return std::exchange(suppressed_, 0); }

private:
    double burst_, per_second_, room_;
    TimePoint last_{};
    uint64_t suppressed_ = 0;
};

}  // namespace caravan
