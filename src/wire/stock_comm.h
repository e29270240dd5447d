// The stock dialect's commands for a comm: two servers that add up tensors over a connection of their own. docs/protocol.md
// has what they send over it.
#pragma once

#include "wire/stock.h"
#include "wire/stock_rdma.h"

namespace caravan::wire {

inline constexpr uint32_t comm_ranks = 2;
// Rank 0 accepts the connection at the server's own port plus this.
inline constexpr uint32_t comm_port_offset = 1000;
// A tensor of so many elements or more is sent as bfloat16.
inline constexpr uint64_t comm_rounded_elements = 32768;

#pragma pack(push, 1)

struct CommInitRequest {
    uint32_t device, rank, world, port;  // of rank 0
    char host[64];                       // of rank 0, as its client knows it; sent to rank 1 only
};

struct CommReduceRequest {
    uint32_t device;
    Tensor tensor;
};

#pragma pack(pop)

static_assert(sizeof(CommInitRequest) == 80 && sizeof(CommReduceRequest) == 300);

// What each rank sends first: its capabilities, as in HELLO. Zeros: TCP only.
using CommGreeting = StockRdma;
static_assert(sizeof(CommGreeting) == 24);

// Whether a rank may have sent this. Servers of other protocols send other bytes first.
inline bool is_comm_greeting(const CommGreeting & greeting) {
    constexpr CommGreeting none{};
    return std::memcmp(&greeting, &none, sizeof none) == 0 || is_queue_pair(greeting);
}

}  // namespace caravan::wire
