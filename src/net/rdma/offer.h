// The messages RDMA_OFFER and RDMA_RAILS, and their replies (wire/extension.h). Both calls block.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "net/rdma/queue_pair.h"
#include "wire/extension.h"

namespace caravan::net::rdma {

struct OfferReply {
    uint8_t accepted = 0;  // a bit for each queue pair; unchecked when received
    std::array<PeerFacts, wire::max_rails> facts{};
    std::string reason;  // why none is accepted
};

// The client's side: offers one to max_rails queue pairs.
Result<OfferReply> exchange_offer(SocketHandle socket, std::span<const PeerFacts> offered, TimePoint deadline);
// The server's side. `as_rails`: the offer was RDMA_RAILS.
Result<> send_reply(SocketHandle socket, const OfferReply & reply, bool as_rails, TimePoint deadline);

}  // namespace caravan::net::rdma
