// The agreement of two ranks on shared memory, over their link and before the first reduction: docs/protocol.md has the steps.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "server/links/exchange.h"
#include "server/links/memory_source.h"

namespace caravan::server {

// A rank whose server supports shared memory. `opened`: this rank opened the link.
struct SharingRank {
    size_t rank;
    bool opened;
};

// Replaces the links of those `ranks` of `peers` with which memory can be shared, and logs with which. Without shared memory
// the link stays as it is. Fails if a link breaks, or a peer sends what does not fit. Returns early if `is_cancelled`.
Result<> share_memory(std::span<Peer> peers, std::span<const SharingRank> ranks, MemorySource & source, Exchange & exchange,
                      const std::atomic<bool> & is_cancelled);

}  // namespace caravan::server
