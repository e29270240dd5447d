// A thread that computes one device's graphs, for back-ends whose graph_compute blocks, or that waits for a device whose
// back-end does not block. The session's thread continues meanwhile.
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

// Computes one graph at a time. Only one thread calls start(), await() and finish().
class DeviceQueue {
public:
    // `backend` must outlive the queue.
    explicit DeviceQueue(ggml_backend_t backend);
    // Waits for the running graph.
    ~DeviceQueue();
    DeviceQueue(const DeviceQueue &) = delete;

    // Starts a graph. The caller must not touch the graph or its buffers, nor start another graph, before finish() returns.
    void start(ggml_cgraph * graph);
    // Starts to wait for the graphs that the back-end computes. The caller must not call the back-end before finish() returns.
    // The outcome's end is when they were done, and its begin when the wait began.
    void await();
    // Waits for the started graph, or the started wait, and returns its outcome.
    Run finish();

private:
    enum class Job { none, compute, await };
    void begin(Job job, ggml_cgraph * graph);
    Run run(Job job, ggml_cgraph * graph);
    void work();

    const ggml_backend_t backend_;
    std::mutex mutex_;
    std::condition_variable changed_;
    Job job_ = Job::none;
    ggml_cgraph * graph_ = nullptr;  // to compute
    Run run_;  // of the last job
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace caravan::server
