// The buffers of one session, and the artificial addresses by which its client refers to them.
//
// A buffer's address has its handle in the upper 16 bits and zeros below. ggml's address arithmetic works on it, and it
// discloses nothing about this process's memory. Used by the session's thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "ggml-backend.h"
#include "server/graph/host_memory.h"
#include "server/graph/touch_ahead.h"

namespace caravan::server {

inline constexpr int offset_bits = 48;
inline constexpr uint64_t max_buffer_size = uint64_t{1} << (offset_bits - 1);
inline constexpr size_t max_buffers = 16 * 1024;

// The handle of the buffer that `address` would lie in.
constexpr uint64_t buffer_of(uint64_t address) { return address >> offset_bits << offset_bits; }

class BufferTable {
public:
    struct Buffer {
        struct Deleter {
            void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
        };
        HostMemory memory;  // empty for small buffers and for devices other than CPUs
        std::unique_ptr<ggml_backend_buffer, Deleter> buffer;
        uint64_t size = 0;
        std::byte * base = nullptr;  // in the address space of this process or of the device
        bool is_host = false;        // base can be read and written directly
        bool is_cpu = false;         // memory of a CPU device
        uint32_t device = 0;
        uint64_t touched = 0;  // pages before this offset are resident or requested to be
    };

    // Allocates a zeroed buffer and returns its address, which is also its handle. Errc::no_memory.
    Result<uint64_t> allocate(ggml_backend_buffer_type_t type, uint32_t device, uint64_t size);
    // False if `address` is not the start of a buffer.
    bool free(uint64_t address);

    // Null if `address` is not the start of a buffer.
    Buffer * find(uint64_t address);

    // The place of [address, address + size) in the buffer `handle`. Errc::not_found or Errc::invalid_argument if the bytes do
    // not lie in it. Zero bytes are accepted at any address, which is clamped to the buffer.
    struct Region {
        Buffer * buffer = nullptr;
        uint64_t offset = 0;
        std::byte * data() const { return buffer->base + offset; }
    };
    Result<Region> locate(uint64_t handle, uint64_t address, uint64_t size);

    // Announces a write of [offset, offset + size) of `buffer`, so that its pages can be touched ahead.
    void expect_write(Buffer & buffer, uint64_t offset, uint64_t size);

    // Sizes of all buffers, of those in the machine's memory, and the maximum of the first.
    uint64_t bytes() const { return bytes_; }
    uint64_t cpu_bytes() const { return cpu_bytes_; }
    uint64_t peak_bytes() const { return peak_bytes_; }

private:
    std::unordered_map<uint64_t, Buffer> buffers_;
    TouchAhead touch_ahead_;
    uint64_t next_ = 1;
    uint64_t bytes_ = 0, peak_bytes_ = 0, cpu_bytes_ = 0;
};

}  // namespace caravan::server
