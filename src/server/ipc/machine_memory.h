// Requests for host memory, which sessions on CPU devices share. A session sends them, before it allocates, to the supervisor,
// which keeps the accounts of all sessions (supervisor/memory_accounts.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/error.h"
#include "server/ipc/control.h"

namespace caravan::server {

// The worker's side: sends claims to the supervisor. For the session's thread, except on_reply().
class MachineMemory {
public:
    using Send = std::function<bool(const ControlMessage & message)>;
    explicit MachineMemory(Send send) : send_(std::move(send)) {}

    // Requests `bytes` in total for the session's buffers, before they grow. Errc::no_memory if refused.
    Result<> claim(uint64_t bytes);
    // Reports that the buffers have shrunk to `bytes` in total.
    void release(uint64_t bytes);
    // Bytes that any session may still claim. `bytes`: the current total of the buffers.
    uint64_t free(uint64_t bytes);

    // Sets the host memory of the session outside its buffers: graphs, and data kept for other servers. Large changes are
    // reported to the supervisor, which subtracts these bytes from the resident memory of the worker.
    void set_other_memory(uint64_t bytes);

    // Accepts the supervisor's reply. Any thread.
    void on_reply(const ControlMessage & reply);

private:
    struct Reply {
        bool is_granted = false;
        uint64_t free = UINT64_MAX;
    };
    Result<Reply> ask(uint64_t bytes);

    ControlMessage message(uint32_t number, uint64_t bytes);

    const Send send_;
    uint64_t bytes_ = 0, other_memory_ = 0, reported_other_memory_ = 0;  // session's thread only
    std::mutex mutex_;
    std::condition_variable changed_;
    uint32_t asked_ = 0, answered_ = 0;  // numbers of claims
    Reply reply_;
};

}  // namespace caravan::server
