// Proves, before a session commits to RDMA, that every operation of its data path works between the two queue pairs: a
// message that fills a slot, and an empty RDMA WRITE. Not for the data path itself.
#pragma once

#include <functional>

#include "base/clock.h"
#include "net/rdma/queue_pair.h"

namespace caravan::net::rdma {

// Returns true to stop waiting, because either end has given up. Called at most once in a millisecond.
using HasGivenUp = std::function<bool()>;

// Writes 0 bytes, and waits for the peer's acknowledgement. The peer must be in state RTR.
Result<> prove_write(QueuePair & pair, TimePoint deadline, const HasGivenUp & has_given_up = {});

// Posts a message of a whole slot: the token and a pattern. The completion has the id set_up_send_id.
Result<> send_token(QueuePair & pair);
// Waits for the peer's token message, checks each of its bytes, and posts the slot again.
Result<> receive_token(QueuePair & pair, TimePoint deadline, const HasGivenUp & has_given_up = {});

}  // namespace caravan::net::rdma
