// The ggml devices that a server lends out.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "ggml-backend.h"
#include "server/graph/device_queue.h"

namespace caravan::server {

struct DeviceFacts {
    std::string name, description;
    uint32_t type = 0;  // ggml_backend_dev_type
    uint64_t alignment = 0, max_size = 0;  // bytes
    uint64_t memory_free = 0, memory_total = 0;
    bool has_unified_memory = false;  // not a CPU, but the processor can address its memory
};

struct DeviceMemory {
    uint64_t free = 0, total = 0;  // bytes
};

// What a back-end reports about a device. The id is empty if it is unknown.
struct Hardware {
    std::string backend, id;
};
// For each device, the index of the first one that is the same hardware in another back-end, or its own index. Devices of one
// back-end are never the same: partitions of a GPU may have its id.
std::vector<size_t> first_with_same_hardware(const std::vector<Hardware> & devices);

class Devices {
public:
    // Loads ggml's back-ends and initializes the devices `names`, in this order. If `names` is empty: all GPUs, or the CPU if
    // there is no GPU. `threads` applies to CPU devices. Errc::not_found if a device does not exist, Errc::unavailable if it
    // cannot be initialized.
    static Result<Devices> open(const std::vector<std::string> & names, int threads);

    // A text that names the devices which open({}) omits because another back-end provides the same hardware. Empty if there
    // is none.
    static std::string duplicates();

    // One line for each device of this machine. Devices that open({}) chooses, or omits as duplicates, are marked.
    static std::string describe_all();

    // Errc::invalid_argument if `index` is out of range.
    Result<> check(uint32_t index) const;
    uint32_t count() const { return static_cast<uint32_t>(devices_.size()); }
    ggml_backend_dev_t device(uint32_t index) const { return devices_[index].device; }
    ggml_backend_buffer_type_t buffer_type(uint32_t index) const;
    // Alignment of tensors in a buffer, bytes. At least a page on a CPU device, so that pages of files can be mapped there.
    uint64_t alignment(uint32_t index) const;
    DeviceFacts facts(uint32_t index) const;
    // Current memory of each device. The CPU devices of a server share the machine's memory, so each reports an equal part.
    // `available`: upper bound on the machine's free memory, because ggml reports all of it as free.
    std::vector<DeviceMemory> memory(uint64_t available = UINT64_MAX) const;
    bool is_cpu(uint32_t index) const;
    bool are_cpus() const;  // true if every device is a CPU
    std::set<std::string> backends() const;  // names of the devices' back-ends: CPU, CUDA, Vulkan

    // True if the device computes on a DeviceQueue. That is the case if there are several devices and the device's back-end
    // blocks. Nothing may be running on such a device when compute() is called.
    bool has_queue(uint32_t index) const { return devices_[index].queue != nullptr && !devices_[index].is_async; }
    // True if the device's back-end computes after compute() has returned.
    bool is_asynchronous(uint32_t index) const { return devices_[index].is_async; }
    // Starts a graph, which may still be running when this returns.
    ggml_status compute(uint32_t index, ggml_cgraph * graph);
    // True if a graph was started that synchronize() has not waited for.
    bool is_running(uint32_t index) const { return devices_[index].running; }
    // Lets a thread wait for the graphs that run on an asynchronous device, one of several, so that their time ends when they
    // are done. Until synchronize() has returned, nothing may touch the device.
    void await(uint32_t index);
    bool is_awaited(uint32_t index) const { return devices_[index].awaited; }
    // Requests bytes of a tensor in the memory of an asynchronous device that is not awaited, as they are after the started
    // graphs. They are in `to` once synchronize() has returned.
    void read_async(uint32_t index, const ggml_tensor & tensor, uint64_t offset, MutableBytes to);
    // Waits for the graphs that were started on the device and returns their outcome, once for each launch. An asynchronous
    // device does not report when it finished, so its time lasts from the first launch to the end of this wait, or of that of
    // await().
    Run synchronize(uint32_t index);

    struct BackendDeleter {
        void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
    };
    using Backend = std::unique_ptr<ggml_backend, BackendDeleter>;
    // Another back-end for the device, which shares what the driver keeps in the process. Null if there can be none.
    Backend another_backend(uint32_t index) const;

    // Aborts running computations where the back-end supports it. Thread-safe.
    void abort_computation() { aborted_->store(true, std::memory_order_relaxed); }
    const std::atomic<bool> & is_aborted() const { return *aborted_; }

private:
    struct Entry {
        ggml_backend_dev_t device;
        Backend backend;
        std::unique_ptr<DeviceQueue> queue;  // only if there are several devices. Destroyed before the back-end
        bool is_async = false;  // graph_compute_async returns before the graph is computed
        bool running = false, awaited = false;
        TimePoint begin{};      // of the first running launch; only if is_async
    };
    std::vector<Entry> devices_;
    int threads_ = 1;
    std::unique_ptr<std::atomic<bool>> aborted_ = std::make_unique<std::atomic<bool>>(false);
};

}  // namespace caravan::server
