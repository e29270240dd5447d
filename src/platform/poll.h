// Waiting for handles.
#pragma once

#include <poll.h>

#include <span>

#include "base/error.h"

namespace caravan::platform {

// One handle to wait for: {handle, readable | writable, 0}. After poll(), `revents` is not 0 if it is ready or has failed.
// The type is the system's own, so that waiting copies nothing.
using Watch = ::pollfd;
inline constexpr short readable = POLLIN, writable = POLLOUT;
// The peer will send nothing more. Where the system cannot report that before its last bytes are read: nothing.
#ifdef POLLRDHUP
inline constexpr short hung_up = POLLRDHUP;
#else
inline constexpr short hung_up = 0;
#endif
// In `revents` only: the connection has failed; or it has failed or ended in both directions.
inline constexpr short broken = POLLERR | POLLNVAL, broken_or_closed = broken | POLLHUP;

// Waits until a handle is ready, for at most `timeout_ms` (poll_timeout_ms() in base/clock.h; -1: no limit; 0: does not
// wait). Returns the number of ready handles. 0: the time has passed, or a signal interrupted the wait. Errc::io on failure.
Result<int> poll(std::span<Watch> watches, int timeout_ms);

}  // namespace caravan::platform
