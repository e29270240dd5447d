// The data path to a stock peer (docs/protocol.md): the stream in messages of at most one field each, without a header. The
// peer has no credits: it is not always ready to receive, and its adapter then makes the sender's try again, without limit.
#pragma once

#include <memory>

#include "net/rdma/queue_pair.h"
#include "net/rdma/stock_fields.h"
#include "net/transport.h"
#include "platform/unique_fd.h"

namespace caravan::net::rdma {

// `pair` must be connected. `socket`: the TCP connection of the handshake. `self`: which end this is.
Result<std::unique_ptr<Transport>> make_stock_transport(std::unique_ptr<QueuePair> pair, UniqueFd socket,
                                                        StockFields::Sender self);

}  // namespace caravan::net::rdma
