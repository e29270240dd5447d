// The control protocol between the supervisor and a worker process: fixed-size messages over a socket pair, some with a file
// descriptor attached. Both processes are of the same build (build.h), so messages carry no version and use the host's byte
// order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/unique_fd.h"
#include "server/ipc/session_counters.h"
#include "wire/shared_memory.h"

namespace caravan::server {

// The most bytes received from a client before its socket is handed over: a request header and a small payload.
inline constexpr size_t max_prefix = 40;

// The most tokens for links that a worker may register.
inline constexpr size_t max_invitations = 256;

struct ControlMessage {
    enum class Kind : uint32_t {
        // Each comment starts with the sender. Sizes are in bytes.
        device,   // worker: facts of device `number` of `count`
        confined, // worker: `text` describes its confinement (confinement.h)
        cache,    // worker: `text`: why it cannot store weights, empty if it can; `count` 1: stored blobs are readable
        note,     // worker: `text` for the log, logged once for all workers
        ready,    // worker: loaded, waits for a session
        failed,   // worker: cannot start; `text`: the reason
        begun,    // worker: the client has sent the first command of its session
        ended,    // worker: the session has ended; `text`: the reason; `counters`; `count`: log lines of its allowance not
                  // used; `memory_total`: size of the graphs that it has written for later workers
        memory,   // supervisor: queries device `number`; `memory_free`: the machine's free memory. The worker replies with
                  // `memory_free` and `memory_total` of the device
        claim,    // worker: its session needs `memory_total` of host memory for all its buffers, and uses `memory_free` of
                  // other host memory. Unless `number` is 0 the supervisor replies with the same `number`; `count` 1: granted;
                  // `memory_free`: what remains available
        session,  // supervisor: serve the attached socket of the client `text` as session `number`; `token` resumes it (0: it
                  // cannot be resumed); `is_native`; `count`: lines that it may log at once
        invite,   // worker: hand over connections that present `token`
        forget,   // worker: no longer hand over connections that present `token`, of a link
        link,     // supervisor: the attached socket has presented `token`
        comm,     // worker: asks for `step` of a stock client's comm, with a `number`. The supervisor replies to reserve and
                  // accept with the same `number`; `count` 1: done, for accept with the attached connection; 0: `text` says
                  // why not
        share,    // worker: make memory that another session can open. The supervisor replies with shared: `number` is its
                  // descriptor in process `count`
        open_shared,  // worker: open the memory that has the descriptor `number` in process `count` and begins with `secret`.
                      // The supervisor replies with shared
        unshare,  // worker: close the descriptor `number` that a share has returned
        shared,   // supervisor: replies to the request with the same `token`; the memory is attached, or `text` says why not
        keep,     // supervisor: write the graphs of your session to the attached memory (warm_graphs.h)
        warm,     // supervisor: compute the graphs in the attached memory, of `memory_total`. Without memory: stop after the
                  // graph that is being computed
        warmed,   // worker: warm with the same `number` is done
        contend,  // supervisor: end the session once it is idle for `number` seconds, since other clients wait (0: no limit)
    };
    enum class Step : uint32_t {
        reserve,  // the server's comm, for this session
        accept,   // one connection at `port`
        stop,     // accepting
        release,  // the comm
    };
    Kind kind = Kind::ready;
    Step step = Step::reserve;
    uint32_t port = 0;
    uint32_t number = 0;
    uint32_t count = 0;
    uint32_t prefix_size = 0;
    uint32_t type = 0;   // device: its ggml_backend_dev_type
    uint32_t is_cpu = 0;  // device: 1 if it computes with threads of this machine's processors
    uint32_t has_unified_memory = 0;  // device: 1 if it is no CPU, but the processor can address its memory
    uint32_t resumes = 0;  // link: 1 if the peer can resume
    uint32_t shares_memory = 0;  // link: 1 if both sides can share memory
    uint32_t is_native = 0;  // session: 1 if both sides have announced the native dialect
    uint64_t token = 0;
    uint64_t alignment = 0, max_size = 0, memory_free = 0, memory_total = 0;
    SessionCounters counters;
    std::byte prefix[max_prefix] = {};
    std::byte secret[wire::secret_size] = {};
    char text[400] = {};

    void set_text(std::string_view from);
};

struct ControlChannel {
    UniqueFd supervisor;  // non-blocking, close-on-exec
    UniqueFd worker;      // inherited by the worker
};
// Makes a socket pair that buffers at most about twenty messages towards the worker: descriptors in flight count against a
// limit of the user, across all processes (RLIMIT_NOFILE).
Result<ControlChannel> make_control_channel();

// Sends the whole message or nothing, with the descriptor `attached` unless it is -1. False: the socket buffer is full, or the
// other process has exited, which receive_control() also reports.
bool send_control(int fd, const ControlMessage & message, int attached = -1);
// The same, with the system's reason as the error's text.
Result<> try_send_control(int fd, const ControlMessage & message, int attached = -1);

struct ReceivedControl {
    ControlMessage message;
    UniqueFd attached;
};
// Whether a message may carry a descriptor. Workers send none unless they are compromised.
enum class Descriptors { accept_one, refuse };
// Returns nullopt if no message is pending and `fd` is non-blocking; Errc::closed if the other process has exited.
Result<std::optional<ReceivedControl>> receive_control(int fd, Descriptors descriptors);

}  // namespace caravan::server
