#include "server/graph/buffer_table.h"

#include <algorithm>

#include "base/size_text.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

constexpr uint64_t handle_mask = (uint64_t{1} << (63 - offset_bits)) - 1;  // addresses stay below 2^63

}  // namespace

Result<uint64_t> BufferTable::allocate(ggml_backend_buffer_type_t type, uint32_t device, uint64_t size) {
    if (size > max_buffer_size || size > ggml_backend_buft_get_max_size(type)) {
        return fail(Errc::no_memory, "{} exceed the device's maximum buffer size", size_text(size));
    }
    if (buffers_.size() >= max_buffers) {
        return fail(Errc::no_memory, "the session already has {} buffers, the maximum", buffers_.size());
    }
    Buffer entry;
    const bool is_cpu = is_cpu_memory(type);
    if (is_cpu && size >= tunable::min_paged_buffer) {
        entry.memory = HostMemory(size);
        const MutableBytes bytes = entry.memory.bytes();
        entry.buffer.reset(bytes.empty() ? nullptr : ggml_backend_cpu_buffer_from_ptr(bytes.data(), bytes.size()));
    } else {
        entry.buffer.reset(ggml_backend_buft_alloc_buffer(type, std::max<uint64_t>(size, 1) + (is_cpu ? overread_bytes : 0)));
    }
    if (entry.buffer == nullptr) {
        return fail(Errc::no_memory, "the device cannot allocate {}", size_text(size));
    }
    entry.size = size;
    entry.is_cpu = is_cpu;
    entry.base = static_cast<std::byte *>(ggml_backend_buffer_get_base(entry.buffer.get()));
    entry.is_host = ggml_backend_buffer_is_host(entry.buffer.get());
    entry.device = device;
    // Device memory may hold another process's data, and heap memory this one's. HostMemory is zeroed by the kernel.
    if (entry.memory.bytes().empty()) {
        ggml_backend_buffer_clear(entry.buffer.get(), 0);
    }
    uint64_t address = 0;
    do {
        address = (next_++ & handle_mask) << offset_bits;
    } while (address == 0 || buffers_.contains(address));
    bytes_ += size;
    cpu_bytes_ += is_cpu ? size : 0;
    peak_bytes_ = std::max(peak_bytes_, bytes_);
    buffers_.emplace(address, std::move(entry));
    return address;
}

bool BufferTable::free(uint64_t address) {
    const auto found = buffers_.find(address);
    if (found == buffers_.end()) {
        return false;
    }
    if (found->second.touched > 0) {
        touch_ahead_.stop();
    }
    bytes_ -= found->second.size;
    cpu_bytes_ -= found->second.is_cpu ? found->second.size : 0;
    buffers_.erase(found);
    return true;
}

void BufferTable::expect_write(Buffer & buffer, uint64_t offset, uint64_t size) {
    if (!buffer.is_cpu || size < tunable::min_touched_write) {
        return;
    }
    const uint64_t begin = std::max(offset, buffer.touched);
    const uint64_t end = std::min(buffer.size, offset + size + tunable::max_touched_ahead);
    if (begin < end) {
        buffer.touched = end;
        touch_ahead_.expect({buffer.base + begin, end - begin});
    }
}

BufferTable::Buffer * BufferTable::find(uint64_t address) {
    const auto found = buffers_.find(address);
    return found == buffers_.end() ? nullptr : &found->second;
}

Result<BufferTable::Region> BufferTable::locate(uint64_t handle, uint64_t address, uint64_t size) {
    Buffer * buffer = find(handle);
    if (buffer == nullptr) {
        return fail(Errc::not_found, "no buffer {:#x}", handle);
    }
    if (size == 0) {
        // ggml computes the address of an empty view like any other, so it may lie outside the buffer.
        return Region{buffer, std::min(buffer->size, address - std::min(address, handle))};
    }
    if (address < handle || address - handle > buffer->size || size > buffer->size - (address - handle)) {
        return fail(Errc::invalid_argument, "{} bytes at {:#x} lie outside buffer {:#x} of {} bytes", size, address,
                    handle, buffer->size);
    }
    return Region{buffer, address - handle};
}

}  // namespace caravan::server
