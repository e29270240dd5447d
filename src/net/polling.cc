#include "net/polling.h"

#include <algorithm>
#include <span>

#include "base/config.h"

namespace caravan::net {

Polling Polling::of_environment() {
    const auto time = poll_time();
    return time ? Polling(*time) : Polling();
}

microseconds Polling::time() const {
    if (fixed_) {
        return *fixed_;
    }
    if (recorded_ < tunable::poll_min_history) {
        return tunable::poll_start;
    }
    std::chrono::nanoseconds longest{0};
    size_t within = 0;
    const auto recent = std::span(recent_).first(std::min(recorded_, recent_.size()));
    for (const auto waited : recent) {
        if (waited <= tunable::poll_limit) {
            longest = std::max(longest, waited);
            ++within;
        }
    }
    if (2 * within < recent.size()) {
        return tunable::poll_once;
    }
    const auto usual = std::chrono::duration_cast<microseconds>(longest + longest / 4) + tunable::poll_margin;
    return std::min<microseconds>(usual, tunable::poll_limit);
}

void Polling::record(std::chrono::nanoseconds waited) { recent_[recorded_++ % recent_.size()] = waited; }

void Polling::sample(TimePoint begin) {
    if (!fixed_ && (recorded_ < recent_.size() || ++sampled_ % tunable::poll_sampling == 0)) {
        record(Clock::now() - begin);
    }
}

}  // namespace caravan::net
