// How ggml's own RPC builds with RDMA find each other: the capability bytes of HELLO, in both directions. Zeros: no RDMA.
// docs/protocol.md describes what follows. Layout only: no I/O.
#pragma once

#include <algorithm>

#include "wire/gid.h"
#include "wire/stock.h"

namespace caravan::wire {

#pragma pack(push, 1)
struct StockRdma {
    uint32_t qpn = 0;
    uint32_t psn = 0;
    uint8_t gid[16] = {};
};
#pragma pack(pop)
static_assert(sizeof(StockRdma) == sizeof(HelloRequest));

// True for the capabilities of a stock peer with RDMA: a queue pair that can exist. 0 (as in the capabilities of a Caravan
// peer) and 1 are numbers for the subnet's management, and no queue pair has a multicast GID.
inline bool is_queue_pair(const StockRdma & peer) {
    constexpr uint32_t highest = 0xffffff;
    return peer.qpn >= 2 && peer.qpn <= highest && peer.psn <= highest && !is_shared_gid(peer.gid) &&
           std::ranges::any_of(peer.gid, [](uint8_t byte) { return byte != 0; });
}

// The most bytes of one message, and the number of messages that a stock peer is ready to receive.
inline constexpr uint32_t stock_message_size = 256 * 1024, stock_receive_depth = 24;

}  // namespace caravan::wire
