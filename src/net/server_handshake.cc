#include "net/server_handshake.h"

#include <array>
#include <cstring>
#include <span>

#include "base/config.h"
#include "base/log.h"
#include "net/exact_io.h"
#include "net/faults.h"
#include "net/hello.h"
#include "net/inbound.h"
#include "net/refusal.h"
#include "platform/socket.h"
#include "tunables/net.h"
#include "wire/frame.h"
#include "wire/native.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/stock_upgrade.h"
#include "net/rdma/upgrade.h"
#endif

namespace caravan::net {
namespace {

TimePoint handshake_deadline() { return Clock::now() + tunable::handshake_timeout; }

// The command's header, or an empty one if more than a header has been received.
wire::RequestHeader header_in(ConstBytes first) {
    return first.size() == sizeof(wire::RequestHeader) ? load<wire::RequestHeader>(first.data()) : wire::RequestHeader{};
}

// Tells a client that speaks the native dialect why its session ends. It knows this server's capabilities, unless it is an
// older one: then the reason follows its first command. `first`: the header of that command, or empty.
void refuse(SocketHandle socket, ConstBytes first, std::string_view reason) {
    const auto deadline = [] { return Clock::now() + tunable::worker_refusal_timeout; };
    wire::RequestHeader header = header_in(first);
    if (first.empty() && !receive_exact(socket, mutable_bytes(&header, sizeof header), deadline())) {
        return;
    }
    const bool in_records = header.command == wire::command_records;
    if ((!in_records && !wire::is_native(header.command)) ||
        !send_exact(socket, refusal(reason, in_records), deadline())) {
        return;
    }
    platform::stop_sending(socket);
    // To close a socket with unread bytes resets the connection, and the client may lose the reason.
    std::byte rest[256];
    for (const TimePoint until = deadline(); receive_exact(socket, rest, until);) {
    }
}

#ifdef GGML_RPC_RDMA
Result<rdma::Upgrade> receive_offer(UniqueFd & socket, bool as_rails) {
    wire::RdmaRails offer{.count = 1, .queue_pairs = {}};
    const MutableBytes message = as_rails ? mutable_bytes(&offer, sizeof offer)
                                          : mutable_bytes(&offer.queue_pairs[0], sizeof(wire::RdmaOffer));
    if (auto got = receive_exact(socket.get(), message, handshake_deadline()); !got) {
        return std::unexpected(got.error());
    }
    std::array<rdma::PeerFacts, wire::max_rails> facts;
    static_assert(sizeof facts == sizeof offer.queue_pairs);
    std::memcpy(facts.data(), offer.queue_pairs, sizeof facts);
    const size_t count = offer.count <= facts.size() ? offer.count : 0;  // answer() declines none
    return rdma::answer(socket, std::span(facts).first(count), as_rails);
}
#endif

Result<Accepted> accept_transport(UniqueFd socket, ConstBytes first, bool can_resume) {
    Accepted accepted;
    accepted.first.assign(first.begin(), first.end());
#ifdef GGML_RPC_RDMA
    const auto header = header_in(first);
    const bool is_offer = wire::is_rdma_offer(header.command, header.size);
    const bool is_stock_offer = first.size() == sizeof(wire::RequestHeader) + sizeof(wire::StockRdma);
    if ((is_offer || is_stock_offer) && transport_mode() != TransportMode::tcp) {
        accepted.first.clear();
        auto upgraded = is_offer ? receive_offer(socket, header.command == wire::command_rdma_rails)
                                 : rdma::answer_stock(socket, load<wire::StockRdma>(first.data() + sizeof header));
        if (!upgraded) {
            return std::unexpected(upgraded.error());
        }
        if (upgraded->transport != nullptr) {
            accepted.transport = std::move(upgraded->transport);
            return accepted;
        }
        log_info("RDMA not activated: {}{}", upgraded->why_not.text,
                 transport_mode() == TransportMode::rdma ? "" : "; the session continues over TCP");
    }
#endif
    if (built_with_rdma && transport_mode() == TransportMode::rdma) {
        constexpr std::string_view reason = "the server accepts only RDMA (GGML_RPC_TRANSPORT=rdma there)";
        refuse(socket.get(), accepted.first, reason);
        return fail(Errc::unavailable, "GGML_RPC_TRANSPORT=rdma, but the client's session does not use RDMA");
    }
    // A session that cannot be resumed waits for a silent network, which may recover.
    auto transport = make_socket_transport(std::move(socket), can_resume ? tunable::network_patience : seconds(0));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    accepted.transport = std::move(*transport);
    return accepted;
}

}  // namespace

Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume) {
    wire::RequestHeader header = header_in(first);
    if (header.command == wire::command_admission) {
        auto done = send_exact(socket.get(), wire::reply_frame(wire::AdmissionReply{}), handshake_deadline());
        done = done ? receive_exact(socket.get(), mutable_bytes(&header, sizeof header), handshake_deadline()) : done;
        if (!done) {
            return std::unexpected(done.error());
        }
        first = const_bytes(&header, sizeof header);
    }
    auto accepted = accept_transport(std::move(socket), first, can_resume);
    if (!accepted) {
        return accepted;
    }
    accepted->transport = with_faults(std::move(accepted->transport));
    if (!can_resume) {
        return accepted;
    }
    if (accepted->first.empty()) {
        if (auto got = receive_whole(*accepted->transport, mutable_bytes(&header, sizeof header), handshake_deadline()); !got) {
            return std::unexpected(got.error());
        }
        if (header.command != wire::command_records) {
            return fail(Errc::protocol, "the session's first command is not RECORDS");
        }
    }
    accepted->in_records = header.command == wire::command_records;
    if (accepted->in_records) {
        accepted->first.clear();
    }
    return accepted;
}

Result<TokenConnection> accept_with_token(UniqueFd socket, ConstBytes first, bool can_resume,
                                          const std::function<bool()> & expects_link) {
    auto accepted = accept_transport(std::move(socket), first, can_resume);
    if (!accepted) {
        return std::unexpected(accepted.error());
    }
    Inbound in(*accepted->transport, accepted->first, tunable::handshake_timeout, microseconds{0});
    auto bytes = in.peek(sizeof(wire::RequestHeader));
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto header = load<wire::RequestHeader>(bytes->data());
    TokenConnection connection;
    if (header.command == wire::command_resume && header.size == sizeof(wire::ResumeRequest)) {
        bytes = in.peek(sizeof header + sizeof(wire::ResumeRequest));
        if (!bytes) {
            return std::unexpected(bytes.error());
        }
        connection.resume = load<wire::ResumeRequest>(bytes->data() + sizeof header);
    } else if (header.command != wire::command_link) {
        return fail(Errc::protocol, "the first command is neither LINK nor RESUME");
    } else if (!expects_link()) {
        return fail(Errc::not_found, "no link is expected with its token: the link exists already, or was dropped");
    } else if (auto sent = send_all(*accepted->transport, {link_reply}, tunable::handshake_timeout); !sent) {
        return std::unexpected(sent.error());
    }
    connection.transport = with_faults(std::move(accepted->transport));
    return connection;
}

}  // namespace caravan::net
