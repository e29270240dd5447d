// A thread that computes for one device, so that the session's goes on meanwhile: for back-ends that return from a launch
// only when it is done.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "ggml-backend.h"

namespace caravan::server {

// How a launch ended. Without a queue the times are not known, and are those of the clock's epoch.
struct Run {
    ggml_status status = GGML_STATUS_SUCCESS;
    TimePoint begin{}, end{};
};

// One graph at a time. start() and finish() are called by one thread.
class DeviceQueue {
public:
    // `backend` must outlive it.
    explicit DeviceQueue(ggml_backend_t backend);
    // Waits for the graph that is being computed.
    ~DeviceQueue();
    DeviceQueue(const DeviceQueue &) = delete;

    // The graph and all that it touches belong to the queue until finish(). Nothing else may be started before.
    void start(ggml_cgraph * graph);
    // Waits for the end of what was started.
    Run finish();

private:
    void work();

    const ggml_backend_t backend_;
    std::mutex mutex_;
    std::condition_variable changed_;
    ggml_cgraph * graph_ = nullptr;  // started, not yet done
    Run run_;                        // the last one
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace caravan::server
