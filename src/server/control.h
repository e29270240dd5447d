// The private line between the supervisor and a worker process: fixed-size messages over a socket pair, some of which
// carry a file descriptor. Both ends run the same binary, so there is no version and no byte order to agree on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "server/devices.h"

namespace caravan::server {

// What was received from a client before its socket is handed over: at most a header and a small payload.
inline constexpr size_t max_prefix = 32;

struct ControlMessage {
    enum class Kind : uint32_t {
        device,   // worker: facts of device `number`, `count` in all
        confined, // worker: `text` says what it has given up (confinement.h)
        cache,    // worker: `text` says why weights cannot be kept, empty if they can; `count` 1: those that are there are found
        note,     // worker: `text` is for the log, once for all workers
        ready,    // worker: loaded, give me a session
        failed,   // worker: cannot start, `text` says why
        ended,    // worker: the session is over, `text` says why and what it did; it has not logged `count` of its lines
        memory,   // supervisor asks for device `number`, with `memory_free` of the machine's; worker answers with free and
                  // total
        claim,    // worker: my session's buffers take `memory_total` of the machine's memory in all, and
                  // `memory_free` besides. Supervisor answers unless `number` is 0: `count` 1: they may, and what is `memory_free` after that
        session,  // supervisor: serve this socket (attached), session `number`, resumed with `token` (0: never), of `text`;
                  // it may log `count` lines at once
        invite,   // worker: pass me who comes with `token`
        link,     // supervisor: this socket (attached) came with `token`
        contend,  // supervisor: others wait for a session; end this one when it is idle for `number` seconds (0: never)
    };
    Kind kind = Kind::ready;
    uint32_t number = 0;
    uint32_t count = 0;
    uint32_t prefix_size = 0;
    uint32_t type = 0;   // of a device
    uint32_t resumes = 0;  // link: can the peer?
    uint64_t token = 0;
    uint64_t alignment = 0, max_size = 0, memory_free = 0, memory_total = 0;
    std::byte prefix[max_prefix] = {};
    char text[400] = {};

    void set_text(std::string_view from);
};

struct ControlLine {
    UniqueFd supervisor;  // non-blocking, close-on-exec
    UniqueFd worker;      // to be inherited
};
// What the supervisor has sent and the worker has not taken is bounded, to about twenty messages: descriptors on their way
// count against this user's limit, for all processes together (RLIMIT_NOFILE).
Result<ControlLine> make_control_line();

// Sends the whole message or nothing. False: the other process does not read its messages now, or has exited, which
// receive_control() reports as well.
bool send_control(int fd, const ControlMessage & message, int attached = -1);

struct ReceivedControl {
    ControlMessage message;
    UniqueFd attached;
};
// What to do with descriptors that come with a message. A worker sends none, unless it has fallen to its client.
enum class Descriptors { accept_one, refuse };
// Nothing if no whole message is there yet and `fd` does not block; Errc::closed if the other process has gone.
Result<std::optional<ReceivedControl>> receive_control(int fd, Descriptors descriptors);

}  // namespace caravan::server
