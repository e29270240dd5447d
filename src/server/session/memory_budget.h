// The memory limit of a session. It covers the session's device buffers and the host memory of its graphs, both stored and
// under construction. Used by the session's thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "server/graph/buffer_table.h"
#include "tunables/session.h"

namespace caravan::server {

class MemoryBudget;

// Host memory claimed from a MemoryBudget, which must outlive it. The destructor returns the memory.
class MemoryClaim {
public:
    MemoryClaim() = default;
    MemoryClaim(MemoryClaim && other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    MemoryClaim & operator=(MemoryClaim && other) noexcept {
        std::swap(budget_, other.budget_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~MemoryClaim();

private:
    friend class MemoryBudget;
    MemoryClaim(MemoryBudget & budget, uint64_t bytes) : budget_(&budget), bytes_(bytes) {}

    MemoryBudget * budget_ = nullptr;
    uint64_t bytes_ = 0;
};

class MemoryBudget {
public:
    static constexpr uint64_t no_limit = UINT64_MAX;
    // Upper bound on host memory, independent of the limit, bytes.
    static constexpr uint64_t max_host = tunable::max_graph_memory;

    // `max_bytes`: limit on buffers and host memory together. `buffers` must outlive this.
    MemoryBudget(const BufferTable & buffers, uint64_t max_bytes) : buffers_(buffers), max_bytes_(max_bytes) {}
    MemoryBudget(const MemoryBudget &) = delete;

    uint64_t max_bytes() const { return max_bytes_; }
    uint64_t remaining() const { return max_bytes_ - std::min(max_bytes_, buffers_.bytes() + host_); }
    bool fits_host(uint64_t bytes) const { return bytes <= remaining() && bytes <= max_host - std::min(max_host, host_); }

    // Bytes of host memory that are claimed.
    uint64_t host_bytes() const { return host_; }
    // Called when host_bytes() has changed.
    std::function<void()> on_host_change;

    // Both fail with Errc::no_memory if the limit does not permit it.
    Result<> check_buffer(uint64_t size) const;
    // `purpose`: for the error.
    Result<MemoryClaim> claim_host(uint64_t bytes, std::string_view purpose = "for graphs");

private:
    friend class MemoryClaim;

    const BufferTable & buffers_;
    const uint64_t max_bytes_;
    void change_host(uint64_t bytes) {
        host_ = bytes;
        if (on_host_change) {
            on_host_change();
        }
    }

    uint64_t host_ = 0;
};

inline MemoryClaim::~MemoryClaim() {
    if (budget_ != nullptr) {
        budget_->change_host(budget_->host_ - bytes_);
    }
}

}  // namespace caravan::server
