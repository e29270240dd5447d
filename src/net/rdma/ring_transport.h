// The data path over connected queue pairs: a byte stream, sent as messages through two rings of registered slots for each.
//
// A send() that fits into a slot is one message, inline if it is short. Longer data uses as many slots as are free, with
// several messages in flight. A message is a header (ring_header.h), which returns credits, and data. It needs only SEND,
// which all adapters have. Every message needs a posted receive slot at the peer, so each side counts credits: the peer's
// slots minus a reserve for messages that only return credits. Credits are returned with the next message, or by such a
// message when many are owed. A receiver is therefore always ready.
//
// Over several queue pairs (rails) data messages are numbered, because they overtake each other; the receiver keeps early ones
// in their slots. Credits are counted for each rail. A send() that fits into a slot uses the first rail. A failure of any rail
// ends the connection.
//
// A message that is longer than its slot, has no header or the wrong number, carries neither data nor credits, or exceeds
// the credits ends the connection.
//
// The TCP connection stays open: its close means that the peer has closed. An empty RDMA WRITE after a few seconds of
// silence detects the loss of the peer or of the network path; it costs the peer nothing.
#pragma once

#include <memory>
#include <vector>

#include "net/rdma/queue_pair.h"
#include "net/transport.h"
#include "platform/unique_fd.h"

namespace caravan::net::rdma {

// `pairs`: at least one, connected, in the same order at both ends. `socket`: the TCP connection on which RDMA was negotiated.
Result<std::unique_ptr<Transport>> make_ring_transport(std::vector<std::unique_ptr<QueuePair>> pairs, UniqueFd socket);

}  // namespace caravan::net::rdma
