#include "net/rdma/offer.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "net/exact_io.h"
#include "wire/frame.h"

namespace caravan::net::rdma {
namespace {

static_assert(sizeof(PeerFacts) == wire::queue_pair_facts_size);

template <class Message>
Result<> send_as(SocketHandle socket, const OfferReply & reply, TimePoint deadline) {
    Message message{};
    message.accepted = reply.accepted;
    if constexpr (std::is_same_v<Message, wire::RdmaReply>) {
        store(message.queue_pair, reply.facts.front());
    } else {
        static_assert(sizeof message.queue_pairs == sizeof reply.facts);
        std::memcpy(message.queue_pairs, reply.facts.data(), sizeof message.queue_pairs);
    }
    std::memcpy(message.reason, reply.reason.data(), std::min(reply.reason.size(), sizeof message.reason - 1));
    return send_exact(socket, wire::reply_frame(message), deadline);
}

template <class Message>
Result<OfferReply> receive_as(SocketHandle socket, TimePoint deadline) {
    uint64_t size = 0;
    Message message{};
    auto got = receive_exact(socket, mutable_bytes(&size, sizeof size), deadline);
    if (got && size != sizeof message) {
        got = fail(Errc::protocol, "unexpected reply of {} bytes to an offer of RDMA", size);
    }
    got = got ? receive_exact(socket, mutable_bytes(&message, sizeof message), deadline) : got;
    if (!got) {
        return std::unexpected(got.error());
    }
    OfferReply reply;
    if constexpr (std::is_same_v<Message, wire::RdmaReply>) {
        reply.accepted = message.accepted == 1 ? 1 : 0;
        reply.facts.front() = load<PeerFacts>(message.queue_pair);
    } else {
        reply.accepted = message.accepted;
        std::memcpy(reply.facts.data(), message.queue_pairs, sizeof message.queue_pairs);
    }
    reply.reason.assign(message.reason, strnlen(message.reason, sizeof message.reason));
    return reply;
}

}  // namespace

Result<OfferReply> exchange_offer(SocketHandle socket, std::span<const PeerFacts> offered, TimePoint deadline) {
    if (offered.size() == 1) {
        const auto sent = send_exact(socket, wire::frame(wire::command_rdma_offer, offered.front()), deadline);
        return sent ? receive_as<wire::RdmaReply>(socket, deadline) : std::unexpected(sent.error());
    }
    wire::RdmaRails message{.count = static_cast<uint32_t>(offered.size()), .queue_pairs = {}};
    std::memcpy(message.queue_pairs, offered.data(), offered.size_bytes());
    const auto sent = send_exact(socket, wire::frame(wire::command_rdma_rails, message), deadline);
    return sent ? receive_as<wire::RdmaRailsReply>(socket, deadline) : std::unexpected(sent.error());
}

Result<> send_reply(SocketHandle socket, const OfferReply & reply, bool as_rails, TimePoint deadline) {
    return as_rails ? send_as<wire::RdmaRailsReply>(socket, reply, deadline)
                    : send_as<wire::RdmaReply>(socket, reply, deadline);
}

}  // namespace caravan::net::rdma
