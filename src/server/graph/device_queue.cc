#include "server/graph/device_queue.h"

#include <system_error>

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

void DeviceQueue::start(ggml_cgraph * graph) { begin(Job::compute, graph); }

void DeviceQueue::await() { begin(Job::await, nullptr); }

void DeviceQueue::begin(Job job, ggml_cgraph * graph) {
    // The thread is created on first use, after the worker was confined: a thread inherits the restrictions that hold when it
    // starts.
    if (!thread_.joinable()) {
        try {
            thread_ = std::thread([this] { work(); });
        } catch (const std::system_error &) {  // too many threads: the session's thread does it
            run_ = run(job, graph);
            return;
        }
    }
    {
        std::lock_guard lock(mutex_);
        job_ = job;
        graph_ = graph;
    }
    changed_.notify_all();
}

Run DeviceQueue::run(Job job, ggml_cgraph * graph) {
    Run run{.begin = Clock::now()};
    if (job == Job::compute) {
        run.status = ggml_backend_graph_compute(backend_, graph);
    } else {
        ggml_backend_synchronize(backend_);
    }
    run.end = Clock::now();
    return run;
}

Run DeviceQueue::finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return job_ == Job::none; });
    return run_;
}

void DeviceQueue::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return job_ != Job::none || stopping_; });
        if (job_ == Job::none) {
            return;
        }
        const Job job = job_;
        ggml_cgraph * const graph = graph_;
        lock.unlock();
        const Run done = run(job, graph);
        lock.lock();
        run_ = done;
        job_ = Job::none;
        changed_.notify_all();
    }
}

}  // namespace caravan::server
