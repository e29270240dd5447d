// Monotonic time: setting the system clock does not shorten or prolong a wait.
#pragma once

#include <algorithm>
#include <chrono>
#include <climits>

namespace caravan {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr TimePoint no_deadline = TimePoint::max();

// The time left until `deadline` as poll(2) expects it: milliseconds, rounded up; -1 for no deadline.
inline int poll_timeout_ms(TimePoint deadline) {
    if (deadline == no_deadline) {
        return -1;
    }
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::clamp<long long>(left, 0, INT_MAX));
}

}  // namespace caravan
