// Launches a session's graphs and waits for them. Used by the session's thread only.
//
// A graph may still be running when launch() returns. Call synchronize() before anything touches the graph, its buffers or
// its device's memory.
#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"
#include "server/graph/devices.h"
#include "server/graph/graph_builder.h"
#include "server/graph/spans.h"

namespace caravan::server {

class GraphRuns {
public:
    GraphRuns(Devices & devices, Spans & spans) : devices_(devices), spans_(spans) {}

    // Starts a graph. On a device with a queue it first waits for the previous launch, so at most one is pending. A graph
    // that uses buffers of other devices runs alone and is waited for. Errc::unsupported if this graph or an earlier one
    // that was not waited for could not be computed; each failure is returned once. Errc::invalid_argument if an index is
    // out of range.
    Result<> launch(uint32_t device, Graph & graph);
    // Waits for the graphs that run on the device. Errc::unsupported if one could not be computed.
    Result<> synchronize(uint32_t device);
    // The same, and reads bytes of a tensor that is in the device's memory, also if a graph failed. An asynchronous device that
    // computes is waited for once, not for the graph and then for the bytes.
    Result<> synchronize_and_read(uint32_t device, const ggml_tensor & tensor, uint64_t offset, MutableBytes to);
    // Waits for all devices, and returns the first failure.
    Result<> synchronize();
    // True if an asynchronous device computes, and nothing waits for it, as far as is known.
    bool is_unattended() const;
    // Lets the computing time of asynchronous devices end when they are done. Waits for the only device of a session, and else
    // lets threads wait: Errc::unsupported as for synchronize().
    Result<> attend();

    // Called when the last launch on a device turns out to have failed.
    std::function<void(uint32_t device)> on_failed;

    void count_built() { ++built_; }
    uint64_t built() const { return built_; }
    uint64_t launches() const { return launches_; }
    // Computing time, the sum over devices that compute at the same time. That of an asynchronous device lasts from its first
    // launch to the end of the wait for it.
    std::chrono::nanoseconds busy() const { return busy_; }

private:
    Error failure(uint32_t device, ggml_status status) const;

    Devices & devices_;
    Spans & spans_;
    uint64_t built_ = 0, launches_ = 0;
    std::chrono::nanoseconds busy_{0};
};

}  // namespace caravan::server
