// The ggml devices that a server lends out.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "ggml-backend.h"
#include "server/device_queue.h"

namespace caravan::server {

struct DeviceFacts {
    std::string name, description;
    uint32_t type = 0;  // ggml_backend_dev_type
    uint64_t alignment = 0, max_size = 0;  // bytes
    uint64_t memory_free = 0, memory_total = 0;
};

struct DeviceMemory {
    uint64_t free = 0, total = 0;  // bytes
};

// For each hardware id the index of the first that is equal; its own if it is the first, or empty (unknown).
std::vector<size_t> first_of_each(const std::vector<std::string> & ids);

class Devices {
public:
    // Loads ggml's back-ends. `names`: these devices in this order; empty: all GPUs, or the CPU if there is none.
    // `threads` is for CPU devices.
    static Result<Devices> open(const std::vector<std::string> & names, int threads);

    // In words, which devices open({}) left out because another back-end lends the same hardware; empty: none.
    static std::string doubles();

    // Every device of this machine, with a mark at those that open({}) would lend.
    static std::string describe_all();

    // Errc::invalid_argument if there is none of this index.
    Result<> check(uint32_t index) const;
    uint32_t count() const { return static_cast<uint32_t>(devices_.size()); }
    ggml_backend_dev_t device(uint32_t index) const { return devices_[index].device; }
    ggml_backend_buffer_type_t buffer_type(uint32_t index) const;
    // Of tensors in a buffer, bytes. A CPU's begin at pages, where pages of files can take their place.
    uint64_t alignment(uint32_t index) const;
    DeviceFacts facts(uint32_t index) const;
    // Of each device now. CPU devices of one server share the machine's memory, so each has an equal part of it; of which
    // `available` bytes are free at most (ggml says that all is).
    std::vector<DeviceMemory> memory(uint64_t available = UINT64_MAX) const;
    bool are_cpus() const;  // all of them

    // Is a launch handed to a thread of the device's own? So it is if there are several devices and this one's back-end
    // would hold up the caller. Then nothing may be running there when compute() is called.
    bool has_queue(uint32_t index) const { return devices_[index].queue != nullptr; }
    // Starts a graph; it may still be running on return.
    ggml_status compute(uint32_t index, ggml_cgraph * graph);
    // Was something started that synchronize() has not waited for?
    bool is_running(uint32_t index) const { return devices_[index].running; }
    // Waits for all that was started on the device, and returns how it ended; once for each launch. Of an asynchronous
    // device the time is that from the first launch to the end of this wait: it does not report when it was done.
    Run synchronize(uint32_t index);

    // Makes running computations end early, where the back-end can. Any thread.
    void abort_computation() { aborted_->store(true, std::memory_order_relaxed); }

private:
    struct BackendDeleter {
        void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
    };
    struct Entry {
        ggml_backend_dev_t device;
        std::unique_ptr<ggml_backend, BackendDeleter> backend;
        std::unique_ptr<DeviceQueue> queue;  // ends before the back-end
        bool is_async = false;  // a launch returns before it has been computed
        bool running = false;
        TimePoint begin{};      // of what is running, if it is async
    };
    std::vector<Entry> devices_;
    std::unique_ptr<std::atomic<bool>> aborted_ = std::make_unique<std::atomic<bool>>(false);
};

}  // namespace caravan::server
