// The first bytes of each message of the RDMA data path. docs/protocol.md describes it. A change needs another token
// (proof.cc).
#pragma once

#include <cstdint>

namespace caravan::net::rdma {

#pragma pack(push, 1)
struct RingHeader {
    uint32_t credits = 0;  // receive slots that the sender has posted again and not reported yet
    uint32_t number = 0;   // of this message; a gap means that the connection lost one
};
#pragma pack(pop)
static_assert(sizeof(RingHeader) == 8);

}  // namespace caravan::net::rdma
