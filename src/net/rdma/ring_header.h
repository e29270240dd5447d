// The first bytes of each message of the RDMA data path. docs/protocol.md describes it. A change needs another token
// (proof.cc).
#pragma once

#include <cstdint>

namespace caravan::net::rdma {

#pragma pack(push, 1)

// Over a single queue pair.
struct RingHeader {
    uint32_t credits = 0;  // receive slots that the sender has posted again and not reported yet
    uint32_t number = 0;   // of this message; a gap means that the connection lost one
};
static_assert(sizeof(RingHeader) == 8);

// Over several.
struct RailHeader {
    uint16_t credits = 0;   // of this queue pair
    uint16_t sequence = 0;  // of this message on this queue pair; a gap means that it lost one
    uint32_t number = 0;    // of this data message on the connection, which puts them in order; without data 0
};
static_assert(sizeof(RailHeader) == sizeof(RingHeader));

#pragma pack(pop)

}  // namespace caravan::net::rdma
