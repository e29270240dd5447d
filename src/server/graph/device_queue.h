// A thread that computes one device's graphs, for back-ends whose graph_compute blocks. The session's thread continues
// meanwhile.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "ggml-backend.h"

namespace caravan::server {

// The outcome of a launch. `begin` and `end` are the clock's epoch if they are unknown.
struct Run {
    ggml_status status = GGML_STATUS_SUCCESS;
    TimePoint begin{}, end{};
};

// Computes one graph at a time. Only one thread calls start() and finish().
class DeviceQueue {
public:
    // `backend` must outlive the queue.
    explicit DeviceQueue(ggml_backend_t backend);
    // Waits for the running graph.
    ~DeviceQueue();
    DeviceQueue(const DeviceQueue &) = delete;

    // Starts a graph. The caller must not touch the graph or its buffers, nor start another graph, before finish() returns.
    void start(ggml_cgraph * graph);
    // Waits for the started graph and returns its outcome.
    Run finish();

private:
    void work();

    const ggml_backend_t backend_;
    std::mutex mutex_;
    std::condition_variable changed_;
    ggml_cgraph * graph_ = nullptr;  // null when idle
    Run run_;                        // of the last graph
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace caravan::server
