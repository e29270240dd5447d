// Opens sessions and links. Where both ends support it, they survive the loss of their connection. Calls block. Any thread.
#pragma once

#include <memory>

#include "net/client_handshake.h"
#include "net/resume/pace.h"

namespace caravan::net {

// Opens a connection to a server; `for_session`: one that carries a session, over RDMA where possible. Retries after a
// reset. `deadline` bounds connecting and the handshake, `queueing` the wait for a full server. `defer_rdma`: a session begins
// over TCP if it can switch to RDMA later (Opened::may_upgrade).
Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline,
                           const Queueing & queueing = {}, const Pace & pace = {}, bool defer_rdma = false);

struct OpenedLink {
    std::unique_ptr<Transport> transport;
    bool shares_memory = false;  // as Opened
};

// Opens a link from this server to the session `token` on the server at `endpoint`. Where both ends support it, the
// link switches to RDMA in the background; this waits for that, for `rdma_wait` at most.
Result<OpenedLink> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline,
                             milliseconds rdma_wait = milliseconds(0));

}  // namespace caravan::net
