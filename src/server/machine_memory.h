// The machine's memory, which the sessions on CPU devices share. The kernel hands memory out when it is touched, so what
// a session has allocated and not touched yet looks free to everybody else. The supervisor therefore keeps account of
// what each session has allocated, and a session asks it before it allocates more.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "base/error.h"
#include "server/control.h"

namespace caravan::server {

// Bytes that processes could still take without swapping (MemAvailable); UINT64_MAX if the system does not tell.
uint64_t available_memory();
// Bytes of memory that the process has touched; 0 if the system does not tell.
uint64_t resident_memory(pid_t pid);

// Of one session, bytes.
struct Holding {
    uint64_t allocated = 0;  // buffers of CPU devices
    uint64_t touched = 0;    // of them. What else its process touched does not make this more
};
// Of `available` bytes, those that no session was promised.
uint64_t unpromised(uint64_t available, std::span<const Holding> sessions);
// May a session that has touched `touched` bytes have `bytes` allocated in all? As far as its own process is concerned
// the kernel decides, as ever: a lone session may have more than is available, and map it from files.
bool may_allocate(uint64_t bytes, uint64_t touched, uint64_t available, std::span<const Holding> others);

// The session's side: asks the supervisor. Threads: the session's, but for answered().
class MachineMemory {
public:
    using Send = std::function<bool(const ControlMessage & message)>;
    explicit MachineMemory(Send send) : send_(std::move(send)) {}

    // Before the session's buffers take `bytes` in all. Errc::no_memory.
    Result<> claim(uint64_t bytes);
    // They take `bytes` in all now, less than before.
    void give_back(uint64_t bytes);
    // What any session may still claim.
    uint64_t free(uint64_t bytes);

    // Besides its buffers the session takes `bytes` of host memory: graphs, and what is kept for other servers. The supervisor
    // is told of large changes: its measure of what the session has touched contains them, and they must not pass for bytes
    // of buffers.
    void note_besides(uint64_t bytes);

    // The supervisor's answer has come. Any thread.
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
    uint64_t bytes_ = 0, besides_ = 0, noted_besides_ = 0;  // the session's thread only
    std::mutex mutex_;
    std::condition_variable changed_;
    uint32_t asked_ = 0, answered_ = 0;  // numbers of questions
    Answer answer_;
};

}  // namespace caravan::server
