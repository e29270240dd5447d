// A device that behaves like a GPU: graph_compute returns at once, results exist after a wait, and the processor cannot address
// the memory. It counts waits.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "abi/ggml_abi.h"
#include "base/clock.h"
#include "server/graph/devices.h"
#include "support/cpu_device.h"

namespace caravan::test {

// Never destroyed, since ggml's registry keeps it.
class FakeGpu {
public:
    explicit FakeGpu(std::string device_name, std::string backend_name = "FAKE", std::string hardware_id = "")
        : device_name_(std::move(device_name)), backend_name_(std::move(backend_name)), hardware_id_(std::move(hardware_id)) {
        (void)cpu_devices();  // loads the back-ends
        reg_.calls.get_name = [](ggml_backend_reg_t reg) { return of(reg).backend_name_.c_str(); };
        reg_.calls.get_proc_address = [](ggml_backend_reg_t, const char *) -> void * { return nullptr; };
        device_.calls.get_name = [](ggml_backend_dev_t device) { return of(device).device_name_.c_str(); };
        device_.calls.get_description = [](ggml_backend_dev_t) { return "a GPU of tests"; };
        device_.calls.get_memory = [](ggml_backend_dev_t, size_t * free, size_t * total) { *free = *total = 1 << 30; };
        device_.calls.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
        device_.calls.get_props = [](ggml_backend_dev_t device, ggml_backend_dev_props * props) {
            props->device_id = of(device).hardware_id_.empty() ? nullptr : of(device).hardware_id_.c_str();
            props->caps.async = true;
        };
        device_.calls.init_backend = init;
        device_.calls.get_buffer_type = [](ggml_backend_dev_t device) { return &of(device).buffer_type_; };
        device_.calls.supports_op = [](ggml_backend_dev_t, const ggml_tensor * op) {
            return ggml_backend_dev_supports_op(cpu_devices().device(0), op);
        };
        device_.calls.supports_buft = [](ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
            return type == &of(device).buffer_type_;
        };
        buffer_type_.calls.get_name = [](ggml_backend_buffer_type_t) { return "FAKE"; };
        buffer_type_.calls.alloc_buffer = allocate;
        buffer_type_.calls.get_alignment = [](ggml_backend_buffer_type_t) -> size_t { return 64; };
        buffer_type_.calls.is_host = [](ggml_backend_buffer_type_t type) { return of(type).is_unified; };
        ggml_backend_device_register(&device_);
    }

    // How often a thread waited for computations or for bytes from the device's memory.
    std::atomic<int> waits{0};
    // How often its user moved bytes to or from its memory through the back-end.
    std::atomic<int> copies{0};
    // Calls of a back-end while another thread waited for it.
    std::atomic<int> collisions{0};
    // Of each graph that is started from then on.
    std::atomic<milliseconds> duration{milliseconds(0)};
    // The processor can address memory that is allocated from then on.
    bool is_unified = false;

private:
    struct Read {
        const void * from;
        void * to;
        size_t size;
    };

    template <class Object>
    static FakeGpu & of(Object * object) {
        return *static_cast<FakeGpu *>(object->context);
    }
    static FakeGpu & of(ggml_backend_buffer_t buffer) { return of(buffer->buft); }

    static ggml_backend_t init(ggml_backend_dev_t device, const char *) {
        static uint8_t guid[16] = "fake GPU";
        auto * backend = new ggml_backend{};
        backend->guid = &guid;
        backend->calls.get_name = [](ggml_backend_t) { return "FAKE"; };
        backend->calls.free = [](ggml_backend_t freed) { delete freed; };
        backend->calls.get_tensor_async = [](ggml_backend_t gpu, const ggml_tensor * tensor, void * to, size_t offset,
                                             size_t n) {
            ++of(gpu).copies;
            of(gpu).collisions += of(gpu).is_waiting_;
            of(gpu).reads_.push_back({static_cast<const char *>(tensor->data) + offset, to, n});
        };
        backend->calls.graph_compute = [](ggml_backend_t gpu, ggml_cgraph * graph) { return of(gpu).start(graph); };
        backend->calls.synchronize = [](ggml_backend_t gpu) {
            ++of(gpu).waits;
            of(gpu).finish();
        };
        backend->device = device;
        backend->context = device->context;
        return backend;
    }

    static ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
        ggml_backend_buffer_calls calls{};
        calls.free_buffer = [](ggml_backend_buffer_t buffer) { std::free(buffer->context); };
        calls.get_base = [](ggml_backend_buffer_t buffer) { return buffer->context; };
        calls.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor * tensor, uint8_t value, size_t offset, size_t n) {
            std::memset(static_cast<char *>(tensor->data) + offset, value, n);
        };
        calls.set_tensor = [](ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * from, size_t offset, size_t n) {
            ++of(buffer).copies;
            std::memcpy(static_cast<char *>(tensor->data) + offset, from, n);
        };
        calls.get_tensor = [](ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * to, size_t offset, size_t n) {
            ++of(buffer).copies;
            ++of(buffer).waits;
            std::memcpy(to, static_cast<const char *>(tensor->data) + offset, n);
        };
        calls.clear = [](ggml_backend_buffer_t buffer, uint8_t value) { std::memset(buffer->context, value, buffer->size); };
        return ggml_backend_buffer_init(type, calls, std::aligned_alloc(64, (size + 63) / 64 * 64), size);
    }

    ggml_status start(ggml_cgraph * graph) {
        collisions += is_waiting_;
        graphs_.push_back(graph);
        done_ = std::max(done_, Clock::now()) + duration.load();
        return GGML_STATUS_SUCCESS;
    }
    // Results do not exist before somebody waits for them.
    void finish() {
        collisions += is_waiting_.exchange(true);
        std::this_thread::sleep_until(done_);
        for (ggml_cgraph * graph : std::exchange(graphs_, {})) {
            ggml_backend_graph_compute(cpu_.get(), graph);
        }
        for (const Read & read : std::exchange(reads_, {})) {
            std::memcpy(read.to, read.from, read.size);
        }
        is_waiting_ = false;
    }

    const std::string device_name_, backend_name_, hardware_id_;
    ggml_backend_reg reg_{.api_version = abi::backend_api_version, .calls = {}, .context = this};
    ggml_backend_device device_{.calls = {}, .reg = &reg_, .context = this};
    ggml_backend_buffer_type buffer_type_{.calls = {}, .device = &device_, .context = this};
    std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> cpu_{
        ggml_backend_dev_init(cpu_devices().device(0), nullptr), ggml_backend_free};
    TimePoint done_{};  // with the started graphs
    std::vector<ggml_cgraph *> graphs_;
    std::vector<Read> reads_;
    std::atomic<bool> is_waiting_{false};
};

// The device GPU0.
inline FakeGpu & fake_gpu() {
    static FakeGpu & only = *new FakeGpu("GPU0");
    return only;
}

inline server::Devices open_with_gpu(const std::vector<std::string> & names) {
    (void)fake_gpu();
    auto opened = server::Devices::open(names, 1);
    EXPECT_TRUE(opened);
    return std::move(*opened);
}

}  // namespace caravan::test
