// How much memory a session may have: its device buffers, and the host memory that its graphs take, those that are kept
// and the one that is being built. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "base/error.h"
#include "server/buffer_table.h"

namespace caravan::server {

class MemoryBudget;

// Some host memory of the budget, given back with this.
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
    // Of host memory, whatever the limit: a client's graphs of 128 shapes of a large model, several times.
    static constexpr uint64_t max_host = uint64_t{1} << 30;

    // `max_bytes`: of buffers and host memory together.
    MemoryBudget(const BufferTable & buffers, uint64_t max_bytes) : buffers_(buffers), max_bytes_(max_bytes) {}
    MemoryBudget(const MemoryBudget &) = delete;

    uint64_t max_bytes() const { return max_bytes_; }
    uint64_t rest() const { return max_bytes_ - std::min(max_bytes_, buffers_.bytes() + host_); }
    bool has_host(uint64_t bytes) const { return bytes <= rest() && bytes <= max_host - std::min(max_host, host_); }

    // Bytes that graphs take now.
    uint64_t host() const { return host_; }
    // Is called when that has changed.
    std::function<void()> on_host;

    // Errc::no_memory.
    Result<> check_buffer(uint64_t size) const;
    Result<MemoryClaim> claim_host(uint64_t bytes);

private:
    friend class MemoryClaim;

    const BufferTable & buffers_;
    const uint64_t max_bytes_;
    void change_host(uint64_t bytes) {
        host_ = bytes;
        if (on_host) {
            on_host();
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
