// How long to poll before sleeping, learnt from earlier waits.
//
// A thread that sleeps is woken up tens of microseconds late. One that polls is not, but uses its processor. A conversation
// repeats itself: the next message usually comes after about as long as the last ones did. So a wait polls slightly longer
// than the recent ones took, and only once if most took longer than the limit. On a busy machine waits take longer than
// that, because other threads run meanwhile.
//
// Not thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <optional>

#include "base/clock.h"
#include "tunables/net.h"

namespace caravan::net {

class Polling {
public:
    // Always polls for this long.
    Polling(microseconds fixed) : fixed_(fixed) {}
    // Learns.
    Polling() = default;
    // As GGML_RPC_POLL_US says.
    static Polling of_environment();

    // For the next wait.
    microseconds time() const;
    // For a wait inside a message, which is short.
    microseconds time_inside() const { return fixed_.value_or(tunable::poll_start); }
    // A wait took this long. Not for waits inside a message.
    void record(std::chrono::nanoseconds waited);
    // A wait that began then is over. Records some of them, which costs less than to measure all.
    void sample(TimePoint begin);

private:
    std::optional<microseconds> fixed_;
    std::array<std::chrono::nanoseconds, tunable::poll_history> recent_{};
    size_t recorded_ = 0;  // in total; entry i is at i modulo the size
    size_t sampled_ = 0;   // waits passed to sample()
};

}  // namespace caravan::net
