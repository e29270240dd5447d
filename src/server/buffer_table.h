// The buffers of one session, and the made-up addresses under which the client knows them.
//
// A buffer's address is its handle in the upper 16 bits and 0 below, so the client can calculate with it as ggml wants
// and learns nothing of this process's memory. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "ggml-backend.h"
#include "server/host_memory.h"
#include "server/touch_ahead.h"

namespace caravan::server {

inline constexpr int offset_bits = 48;
inline constexpr uint64_t max_buffer_size = uint64_t{1} << (offset_bits - 1);
inline constexpr size_t max_buffers = 16 * 1024;

// The handle of the buffer in which an address would lie.
constexpr uint64_t buffer_of(uint64_t address) { return address >> offset_bits << offset_bits; }

class BufferTable {
public:
    struct Buffer {
        struct Deleter {
            void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
        };
        HostMemory memory;  // of a CPU; none if it is small
        std::unique_ptr<ggml_backend_buffer, Deleter> buffer;
        uint64_t size = 0;
        std::byte * base = nullptr;  // of this process or its device
        bool is_host = false;        // base can be read and written directly
        bool is_cpu = false;         // memory of a CPU device
        uint32_t device = 0;
        uint64_t touched = 0;  // up to here its pages are, or soon will be, resident
    };

    // The address of the new buffer, which is also its handle. It holds zeros.
    Result<uint64_t> allocate(ggml_backend_buffer_type_t type, uint32_t device, uint64_t size);
    bool free(uint64_t address);

    // Null if `address` is not the start of a buffer.
    Buffer * find(uint64_t address);

    // The buffer `handle`, if [address, address + size) lies in it. Zero bytes lie in it at any address, and get the
    // offset inside it that is nearest.
    struct Region {
        Buffer * buffer = nullptr;
        uint64_t offset = 0;
        std::byte * data() const { return buffer->base + offset; }
    };
    Result<Region> locate(uint64_t handle, uint64_t address, uint64_t size);

    // [offset, + size) of `buffer` is about to be written.
    void expect_write(Buffer & buffer, uint64_t offset, uint64_t size);

    uint64_t bytes() const { return bytes_; }
    uint64_t cpu_bytes() const { return cpu_bytes_; }  // of these, in the machine's memory
    uint64_t peak_bytes() const { return peak_bytes_; }

private:
    std::unordered_map<uint64_t, Buffer> buffers_;
    TouchAhead touch_ahead_;
    uint64_t next_ = 1;
    uint64_t bytes_ = 0, peak_bytes_ = 0, cpu_bytes_ = 0;
};

}  // namespace caravan::server
