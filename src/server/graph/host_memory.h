// Page-aligned memory for a CPU device's buffers, in which pages can be replaced by mapped pages of files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/bytes.h"
#include "ggml-backend.h"
#include "server/ops/overread.h"

namespace caravan::server {

// True if HostMemory can back buffers of this type.
inline bool is_cpu_memory(ggml_backend_buffer_type_t type) { return type == ggml_backend_cpu_buffer_type(); }

// Owns a mapping between two inaccessible guard pages. Movable.
class HostMemory {
public:
    HostMemory() = default;
    // Zeroed memory of `size` bytes; empty if the allocation fails.
    explicit HostMemory(uint64_t size);
    ~HostMemory();
    HostMemory(HostMemory && other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    HostMemory & operator=(HostMemory && other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    // Begins at a page boundary.
    MutableBytes bytes() const { return bytes_; }

private:
    MutableBytes bytes_;
};

}  // namespace caravan::server
