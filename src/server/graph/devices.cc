#include "server/graph/devices.h"

#include <algorithm>
#include <cstdlib>
#include <ranges>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/size_text.h"
#include "platform/pages.h"
#include "server/graph/host_memory.h"

namespace caravan::server {
namespace {

void load_backends() {
    // Otherwise the server would lend out the devices of other servers as its own.
    ::unsetenv("GGML_RPC_SERVERS");
    ggml_backend_load_all();
}

bool is_remote(ggml_backend_dev_t device) {
    return std::string_view(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device))) == "RPC";
}

bool is_gpu(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

Hardware hardware_of(ggml_backend_dev_t device) {
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device, &props);
    return {.backend = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)),
            .id = props.device_id == nullptr ? "" : props.device_id};
}

std::vector<ggml_backend_dev_t> own_gpus() {
    std::vector<ggml_backend_dev_t> gpus;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (is_gpu(device) && !is_remote(device)) {
            gpus.push_back(device);
        }
    }
    return gpus;
}

// For each device of `gpus`, the earlier device that is the same hardware in another back-end, or null. ggml loads vendors'
// back-ends (CUDA, HIP, SYCL) before Vulkan, so the earlier device is the better choice.
std::vector<ggml_backend_dev_t> earlier_duplicates(const std::vector<ggml_backend_dev_t> & gpus) {
    std::vector<Hardware> devices;
    std::ranges::transform(gpus, std::back_inserter(devices), hardware_of);
    std::vector<ggml_backend_dev_t> same;
    for (const size_t first : first_with_same_hardware(devices)) {
        same.push_back(first == same.size() ? nullptr : gpus[first]);
    }
    return same;
}

std::vector<ggml_backend_dev_t> default_devices() {
    std::vector<ggml_backend_dev_t> chosen;
    const auto gpus = own_gpus();
    const auto same = earlier_duplicates(gpus);
    for (size_t i = 0; i < gpus.size(); ++i) {
        if (same[i] == nullptr) {
            chosen.push_back(gpus[i]);
        }
    }
    if (chosen.empty()) {
        if (const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)) {
            chosen.push_back(cpu);
        }
    }
    return chosen;
}

std::string known_names() {
    std::string names;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        names += formatted("{}{}", i == 0 ? "" : ", ", ggml_backend_dev_name(ggml_backend_dev_get(i)));
    }
    return names.empty() ? "none" : names;
}

// Integrated GPUs do not count whose back-end offers no buffers that the processor can address (docs/gpu.md).
bool has_unified_memory(ggml_backend_dev_t device) {
    return ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU &&
           ggml_backend_buft_is_host(ggml_backend_dev_buffer_type(device));
}

bool computes_asynchronously(ggml_backend_dev_t device) {
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device, &props);
    return props.caps.async;
}

void set_threads(ggml_backend_dev_t device, ggml_backend_t backend, int threads) {
    const auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
    if (set != nullptr) {
        set(backend, threads);
    }
}

void set_abort_flag(ggml_backend_dev_t device, ggml_backend_t backend, std::atomic<bool> * flag) {
    const auto set = reinterpret_cast<ggml_backend_set_abort_callback_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_abort_callback"));
    if (set != nullptr) {
        set(backend, [](void * data) { return static_cast<std::atomic<bool> *>(data)->load(std::memory_order_relaxed); },
            flag);
    }
}

}  // namespace

std::vector<size_t> first_with_same_hardware(const std::vector<Hardware> & devices) {
    std::vector<size_t> firsts;
    for (size_t i = 0; i < devices.size(); ++i) {
        const auto end = devices.begin() + static_cast<std::ptrdiff_t>(i);
        const auto first = std::find_if(devices.begin(), end, [&](const Hardware & other) {
            return !other.id.empty() && other.id == devices[i].id && other.backend != devices[i].backend;
        });
        firsts.push_back(static_cast<size_t>(first - devices.begin()));
    }
    return firsts;
}

std::string Devices::duplicates() {
    const auto gpus = own_gpus();
    const auto same = earlier_duplicates(gpus);
    std::string text;
    for (size_t i = 0; i < gpus.size(); ++i) {
        if (same[i] != nullptr) {
            text += formatted("{}{} and {} are the same device, which is lent once", text.empty() ? "" : "; ",
                              ggml_backend_dev_name(gpus[i]), ggml_backend_dev_name(same[i]));
        }
    }
    return text;
}

Result<Devices> Devices::open(const std::vector<std::string> & names, int threads) {
    load_backends();
    std::vector<ggml_backend_dev_t> chosen;
    for (const std::string & name : names) {
        const ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
        if (device == nullptr) {
            return fail(Errc::not_found, "no device named \"{}\"; available: {}", name, known_names());
        }
        chosen.push_back(device);
    }
    if (names.empty()) {
        chosen = default_devices();
    }
    if (chosen.empty()) {
        return fail(Errc::not_found, "no device to lend: ggml found no back-end on this machine; check its installation");
    }
    Devices devices;
    devices.threads_ = threads;
    for (const ggml_backend_dev_t device : chosen) {
        Entry entry{.device = device, .backend{ggml_backend_dev_init(device, nullptr)}, .queue{}};
        if (entry.backend == nullptr) {
            return fail(Errc::unavailable, "cannot initialize device {}", ggml_backend_dev_name(device));
        }
        set_threads(device, entry.backend.get(), threads);
        set_abort_flag(device, entry.backend.get(), devices.aborted_.get());
        entry.is_async = computes_asynchronously(device);
        if (chosen.size() > 1) {
            entry.queue = std::make_unique<DeviceQueue>(entry.backend.get());
        }
        devices.devices_.push_back(std::move(entry));
    }
    return devices;
}

Devices::Backend Devices::another_backend(uint32_t index) const {
    Backend backend(ggml_backend_dev_init(devices_[index].device, nullptr));
    if (backend != nullptr) {
        set_threads(devices_[index].device, backend.get(), threads_);
    }
    return backend;
}

std::string Devices::describe_all() {
    load_backends();
    const auto lent = default_devices();
    const auto gpus = own_gpus();
    const auto same = earlier_duplicates(gpus);
    const auto note_of = [&](ggml_backend_dev_t device) -> std::string {
        if (std::ranges::find(lent, device) != lent.end()) {
            return "  [lent by default]";
        }
        const auto gpu = static_cast<size_t>(std::ranges::find(gpus, device) - gpus.begin());
        return gpu < gpus.size() && same[gpu] != nullptr
                   ? formatted("  [the same device as {}; lent only with -d]", ggml_backend_dev_name(same[gpu]))
                   : "";
    };
    std::string text;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_dev_t device = ggml_backend_dev_get(i);
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        text += formatted("  {}: {} ({}, {} free{}){}\n", ggml_backend_dev_name(device),
                          ggml_backend_dev_description(device), size_text(total), size_text(free),
                          has_unified_memory(device) ? "; unified memory" : "", note_of(device));
    }
    return text;
}

ggml_backend_buffer_type_t Devices::buffer_type(uint32_t index) const {
    return ggml_backend_get_default_buffer_type(devices_[index].backend.get());
}

uint64_t Devices::alignment(uint32_t index) const {
    const uint64_t own = ggml_backend_buft_get_alignment(buffer_type(index));
    return is_cpu_memory(buffer_type(index)) ? std::max(own, page_size()) : own;
}

DeviceFacts Devices::facts(uint32_t index) const {
    DeviceFacts facts;
    facts.name = ggml_backend_dev_name(devices_[index].device);
    facts.description = ggml_backend_dev_description(devices_[index].device);
    facts.type = static_cast<uint32_t>(ggml_backend_dev_type(devices_[index].device));
    facts.alignment = alignment(index);
    facts.max_size = ggml_backend_buft_get_max_size(buffer_type(index));
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(devices_[index].device, &free, &total);
    facts.memory_free = free;
    facts.memory_total = total;
    facts.has_unified_memory = has_unified_memory(devices_[index].device);
    return facts;
}

std::vector<DeviceMemory> Devices::memory(uint64_t available) const {
    std::vector<DeviceMemory> out;
    uint64_t n_cpus = 0;
    for (uint32_t i = 0; i < count(); ++i) {
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(devices_[i].device, &free, &total);
        out.push_back({free, total});
        n_cpus += is_cpu_memory(buffer_type(i)) ? 1 : 0;
    }
    for (uint32_t i = 0; i < count(); ++i) {
        if (is_cpu_memory(buffer_type(i))) {
            out[i].free = std::min(out[i].free, available) / n_cpus;
            out[i].total /= n_cpus;
        }
    }
    return out;
}

bool Devices::is_cpu(uint32_t index) const {
    return ggml_backend_dev_type(devices_[index].device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

bool Devices::are_cpus() const {
    return std::ranges::all_of(std::views::iota(0u, count()), [this](uint32_t index) { return is_cpu(index); });
}

std::set<std::string> Devices::backends() const {
    std::set<std::string> names;
    for (const Entry & entry : devices_) {
        names.insert(ggml_backend_reg_name(ggml_backend_dev_backend_reg(entry.device)));
    }
    return names;
}

Result<> Devices::check(uint32_t index) const {
    if (index >= count()) {
        return fail(Errc::invalid_argument, "no device {}; the server has {}", index, count());
    }
    return {};
}

ggml_status Devices::compute(uint32_t index, ggml_cgraph * graph) {
    Entry & entry = devices_[index];
    if (entry.is_async && !entry.running) {
        entry.begin = Clock::now();
    }
    entry.running = true;
    if (has_queue(index)) {
        entry.queue->start(graph);
        return GGML_STATUS_SUCCESS;
    }
    return ggml_backend_graph_compute_async(entry.backend.get(), graph);
}

void Devices::await(uint32_t index) {
    Entry & entry = devices_[index];
    if (entry.running && !entry.awaited && entry.is_async && entry.queue != nullptr) {
        entry.awaited = true;
        entry.queue->await();
    }
}

void Devices::read_async(uint32_t index, const ggml_tensor & tensor, uint64_t offset, MutableBytes to) {
    ggml_backend_tensor_get_async(devices_[index].backend.get(), &tensor, to.data(), offset, to.size());
}

Run Devices::synchronize(uint32_t index) {
    Entry & entry = devices_[index];
    if (!entry.running) {
        return {};
    }
    entry.running = false;
    if (std::exchange(entry.awaited, false)) {
        return {.begin = entry.begin, .end = entry.queue->finish().end};
    }
    if (has_queue(index)) {
        return entry.queue->finish();
    }
    ggml_backend_synchronize(entry.backend.get());
    return entry.is_async ? Run{.begin = entry.begin, .end = Clock::now()} : Run{};
}

}  // namespace caravan::server
