// Sessions and links, seen from where they are opened: they outlive their connections where both ends can. Blocking. Any
// thread.
#pragma once

#include <memory>

#include "net/handshake.h"

namespace caravan::net {

// A connection to a server; `for_session`: with a session to come, over RDMA where possible. What is reset meanwhile is
// tried again. `deadline` bounds connecting and the handshake, `queueing` the wait for a server that is full.
Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline,
                           const Queueing & queueing = {});

// A link from this server to the session at `endpoint` that gave out `token`. RDMA where possible.
Result<std::unique_ptr<Transport>> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline);

}  // namespace caravan::net
