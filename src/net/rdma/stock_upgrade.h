// RDMA with a stock peer. Unlike between Caravan peers (upgrade.h), queue pairs are exchanged in HELLO itself, and a side that
// cannot use the other's stays on TCP without telling it.
#pragma once

#include <memory>

#include "net/rdma/queue_pair.h"
#include "net/rdma/upgrade.h"
#include "wire/stock_rdma.h"

namespace caravan::net::rdma {

// The queue pair for the peer of `socket`, in state INIT. Stock peers use Ethernet only.
Result<std::unique_ptr<QueuePair>> prepare_for_stock(SocketHandle socket);
wire::StockRdma stock_facts(const QueuePair & pair);

// The client's side, after HELLO in both directions. Proves by a query, longer than most MTUs, that the server uses RDMA too.
// On an error, make another connection without RDMA: the server may be waiting on its queue pair.
Result<std::unique_ptr<Transport>> connect_to_stock(std::unique_ptr<QueuePair> pair, UniqueFd socket,
                                                    const wire::StockRdma & server, TimePoint deadline);

// The server's side, including its reply to HELLO. Waits a moment for the client's first command: if it arrives over TCP, so
// does the session. Moves from `socket` only if it returns a transport.
Result<Upgrade> answer_stock(UniqueFd & socket, const wire::StockRdma & client);

}  // namespace caravan::net::rdma
