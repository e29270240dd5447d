// The accounting of host memory, which sessions on CPU devices share. The kernel commits memory when it is touched, so memory
// that a session has allocated and not yet touched looks available. The supervisor therefore keeps account of the allocations
// of each session, and a session requests memory from it before it allocates.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "base/error.h"
#include "server/ipc/control.h"

namespace caravan::server {

// Bytes available without swapping (MemAvailable); UINT64_MAX if unknown.
uint64_t available_memory();
// Resident bytes of the process; 0 if unknown.
uint64_t resident_memory(pid_t pid);

// Host memory of one session, in bytes.
struct Holding {
    uint64_t allocated = 0;  // buffers of CPU devices
    uint64_t touched = 0;    // resident bytes of these buffers, without other memory of the process
};
// `available` less the bytes that sessions have allocated and not touched.
uint64_t unpromised(uint64_t available, std::span<const Holding> sessions);
// Whether a session that has touched `touched` bytes may allocate `bytes` in total. Without other sessions the limit is the
// kernel's: a lone session may exceed the available memory and map its buffers from files.
bool may_allocate(uint64_t bytes, uint64_t touched, uint64_t available, std::span<const Holding> others);

// The worker's side: sends claims to the supervisor. For the session's thread, except answered().
class MachineMemory {
public:
    using Send = std::function<bool(const ControlMessage & message)>;
    explicit MachineMemory(Send send) : send_(std::move(send)) {}

    // Requests `bytes` in total for the session's buffers, before they grow. Errc::no_memory if refused.
    Result<> claim(uint64_t bytes);
    // Reports that the buffers have shrunk to `bytes` in total.
    void give_back(uint64_t bytes);
    // Bytes that any session may still claim. `bytes`: the current total of the buffers.
    uint64_t free(uint64_t bytes);

    // Sets the host memory of the session outside its buffers: graphs, and data kept for other servers. Large changes are
    // reported to the supervisor, which subtracts these bytes from the resident memory of the worker.
    void note_besides(uint64_t bytes);

    // Accepts the supervisor's reply. Any thread.
    void answered(const ControlMessage & answer);

private:
    struct Answer {
        bool is_granted = false;
        uint64_t free = UINT64_MAX;
    };
    Result<Answer> ask(uint64_t bytes);

    ControlMessage message(uint32_t number, uint64_t bytes);

    static constexpr uint64_t worth_noting = 16 << 20;
    const Send send_;
    uint64_t bytes_ = 0, besides_ = 0, noted_besides_ = 0;  // session's thread only
    std::mutex mutex_;
    std::condition_variable changed_;
    uint32_t asked_ = 0, answered_ = 0;  // numbers of claims
    Answer answer_;
};

}  // namespace caravan::server
