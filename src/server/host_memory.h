// Memory of a CPU device: whole pages of this process, so that pages of files can take the place of some of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/bytes.h"
#include "ggml-backend.h"

namespace caravan::server {

// Is this what HostMemory can stand for?
inline bool is_cpu_memory(ggml_backend_buffer_type_t type) { return type == ggml_backend_cpu_buffer_type(); }

// Readable behind each buffer of a CPU: there are kernels that read a little beyond a tensor, and use nothing of it.
inline constexpr uint64_t read_beyond = 4096;  // bytes

// Unreadable pages lie on both sides, so whatever runs out of it for some pages' length ends the process. Movable.
class HostMemory {
public:
    HostMemory() = default;
    // All zero. Empty if the system does not give so much.
    explicit HostMemory(uint64_t size);
    ~HostMemory();
    HostMemory(HostMemory && other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    HostMemory & operator=(HostMemory && other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    // Begins at a page.
    MutableBytes bytes() const { return bytes_; }

private:
    MutableBytes bytes_;
};

}  // namespace caravan::server
