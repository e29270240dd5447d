// Sends and receives whole messages on a non-blocking socket during the handshake, before a Transport exists. Each call
// blocks until it is done, fails, or the deadline passes (Errc::timed_out).
#pragma once

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::net {

Result<> send_exact(SocketHandle socket, ConstBytes bytes, TimePoint deadline);
Result<> receive_exact(SocketHandle socket, MutableBytes bytes, TimePoint deadline);

}  // namespace caravan::net
