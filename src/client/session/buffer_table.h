// The buffers of one session on its server.
//
// Threads: any.
#pragma once

#include <atomic>
#include <unordered_map>

#include "client/session/command_queue.h"

namespace caravan::client {

struct RemoteBuffer {
    uint64_t handle = 0;
    uint64_t base = 0;  // virtual address, assigned by the server; never dereferenced here
    uint64_t size = 0;
};

class BufferTable {
public:
    explicit BufferTable(CommandQueue & queue) : queue_(queue) {}

    // Fails with Errc::no_memory if the server cannot allocate, else like a query. `alignment` is that of the device, in bytes.
    Result<RemoteBuffer> alloc(uint32_t device, uint64_t size, uint64_t alignment = 1);
    void free(const RemoteBuffer & buffer);
    void clear(const RemoteBuffer & buffer, uint8_t value);

    // Some programs, for example whisper.cpp, mark a buffer as a weight buffer only after they have filled it. Bytes written
    // before the first launch therefore count as weights if their buffer is marked by then.
    bool has_unmarked_writes() const { return has_unmarked_writes_.load(std::memory_order_relaxed); }
    void mark_as_weights(const RemoteBuffer & buffer);

    // The functions below require the queue's lock.
    //
    // 0 if the handle is unknown.
    uint64_t size_of(uint64_t handle) const;
    // Records a write before the first launch, of bytes that are not known to be weights.
    void record_unmarked_write(uint64_t handle, uint64_t bytes, TimePoint begin);
    // The first launch.
    void end_unmarked_writes() { has_unmarked_writes_.store(false, std::memory_order_relaxed); }

private:
    struct Buffer {
        RemoteBuffer remote;
        uint64_t unmarked = 0;      // bytes written before the first launch, and not as weights
        TimePoint first{}, last{};  // times of these writes
    };

    CommandQueue & queue_;
    std::unordered_map<uint64_t, Buffer> buffers_;  // by handle; guarded by the queue's lock
    std::atomic<bool> has_unmarked_writes_ = false;
};

}  // namespace caravan::client
