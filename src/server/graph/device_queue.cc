#include "server/graph/device_queue.h"

namespace caravan::server {

DeviceQueue::DeviceQueue(ggml_backend_t backend) : backend_(backend) {}

DeviceQueue::~DeviceQueue() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void DeviceQueue::start(ggml_cgraph * graph) {
    {
        std::lock_guard lock(mutex_);
        graph_ = graph;
    }
    // The thread is created on first use, after the worker was confined: a thread inherits the restrictions that hold when it
    // starts.
    if (!thread_.joinable()) {
        thread_ = std::thread([this] { work(); });
    }
    changed_.notify_all();
}

Run DeviceQueue::finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return graph_ == nullptr; });
    return run_;
}

void DeviceQueue::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return graph_ != nullptr || stopping_; });
        if (graph_ == nullptr) {
            return;
        }
        lock.unlock();
        Run run{.begin = Clock::now()};
        run.status = ggml_backend_graph_compute(backend_, graph_);
        run.end = Clock::now();
        lock.lock();
        run_ = run;
        graph_ = nullptr;
        changed_.notify_all();
    }
}

}  // namespace caravan::server
