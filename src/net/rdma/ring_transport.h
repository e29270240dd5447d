// The data path over a connected queue pair: a stream of bytes in messages through two rings of registered slots.
//
// One message for each send() that fits into a slot, inline if it is short; longer data in as many slots as there are,
// several on their way at once. A message carries data only; the immediate number that goes with it says how many slots
// are given back. Every message needs a posted receive slot at the peer, so each side counts credits:
// the peer's slots less a reserve for messages that carry nothing but credits. Used-up slots are given back with the
// next message, or by such a message when many are owed; a receiver is therefore always ready.
//
// A message that is longer than its slot, has no immediate number, says nothing, or exceeds its credits ends the
// connection.
//
// The TCP connection stays open beside it: its end is the peer's end. A peer or a path that has silently gone is found
// by an empty RDMA WRITE every few seconds of silence, which costs the peer nothing.
#pragma once

#include <memory>

#include "base/unique_fd.h"
#include "net/rdma/queue_pair.h"
#include "net/transport.h"

namespace caravan::net::rdma {

// `pair` must be connected, `socket` is the side channel.
Result<std::unique_ptr<Transport>> make_ring_transport(std::unique_ptr<QueuePair> pair, UniqueFd socket);

}  // namespace caravan::net::rdma
