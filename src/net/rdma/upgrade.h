// Switches a fresh connection between two Caravan peers from TCP to RDMA. If RDMA fails at any step on either side, the
// socket stays usable, and both sides agree to continue over TCP. Drop the connection only if TCP fails during the
// negotiation. A late reply counts as such a failure: it could arrive in the middle of a session.
//
//   client: queue pairs to INIT, offer     ->
//                                          <- server: queue pairs connected to the client's, reply
//   client: connect, empty WRITE, token    ->
//                                          <- server: empty WRITE, token
//   client: verdict over TCP               ->
//
// A token fills a slot. Each side sends its token once the peer has acknowledged its WRITE. The verdict is yes only if the
// client received the server's token, which the server sends only after it received the client's. So both directions have
// carried every kind of message before either side commits.
//
// With several queue pairs this holds for each: the verdict names those whose token the client received, and both sides drop
// the others.
#pragma once

#include <memory>
#include <span>
#include <stop_token>
#include <string>

#include "net/no_rdma.h"
#include "net/rdma/queue_pair.h"
#include "net/transport.h"
#include "platform/unique_fd.h"
#include "wire/extension.h"

namespace caravan::net::rdma {

// The transport that both sides agreed on.
struct Upgrade {
    std::unique_ptr<Transport> transport;  // null: TCP
    NoRdma why_not;                        // the reason for TCP
};
// Why this end cannot offer RDMA over this connection; empty if it can. Opens the devices, but creates nothing.
NoRdma why_unavailable(SocketHandle socket);
// The client's side. Moves from `socket` only if it returns a transport. Error: the sides did not reach an agreement. `stop`:
// ends the wait for RDMA's messages. `takes_rails`: the server knows RDMA_RAILS.
Result<Upgrade> offer(UniqueFd & socket, bool takes_rails, TimePoint deadline, const std::stop_token & stop = {});
// The server's side, after it received the queue pairs that the client `offered`, which are unchecked, in RDMA_RAILS or
// RDMA_OFFER. Otherwise the same.
Result<Upgrade> answer(UniqueFd & socket, std::span<const PeerFacts> offered, bool as_rails);

}  // namespace caravan::net::rdma
