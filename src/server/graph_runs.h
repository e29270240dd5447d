// A session's launches, and the waiting for them. One thread.
//
// A launch may still be running when launch() returns. Then the graph, its buffers and its device's memory are the
// device's own: settle() comes before all that touches them.
#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"
#include "server/devices.h"
#include "server/graph_builder.h"
#include "server/spans.h"

namespace caravan::server {

class GraphRuns {
public:
    GraphRuns(Devices & devices, Spans & spans) : devices_(devices), spans_(spans) {}

    // On a device with a queue a launch waits for the one before it, so nothing piles up. A graph that touches buffers of
    // other devices runs alone. Fails if it could not be computed, or one before it could not (which is said once).
    Result<> launch(uint32_t device, Graph & graph);
    // Waits for what runs on the device. Fails if that could not be computed.
    Result<> settle(uint32_t device);
    // The same on all of them; all are waited for.
    Result<> settle();

    // Is called when it turns out that the device could not compute what was launched last.
    std::function<void(uint32_t device)> on_failed;

    void count_built() { ++built_; }
    uint64_t built() const { return built_; }
    uint64_t launches() const { return launches_; }
    // Time that devices computed, as far as this thread saw it: of several at once, the sum.
    std::chrono::nanoseconds busy() const { return busy_; }

private:
    Error failure(uint32_t device, ggml_status status) const;

    Devices & devices_;
    Spans & spans_;
    uint64_t built_ = 0, launches_ = 0;
    std::chrono::nanoseconds busy_{0};
};

}  // namespace caravan::server
