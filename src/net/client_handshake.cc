#include "net/client_handshake.h"

#include "base/config.h"
#include "base/printable.h"
#include "net/advice.h"
#include "net/exact_io.h"
#include "net/hello.h"
#include "net/socket.h"
#include "tunables/net.h"
#include "wire/frame.h"
#include "wire/native.h"
#include "wire/stock_rdma.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/recent_failures.h"
#include "net/rdma/stock_upgrade.h"
#include "net/rdma/upgrade.h"
#endif

namespace caravan::net {
namespace {

constexpr size_t max_refusal = 1000;

// HELLO, with a token or other capabilities, and the check of the server's version.
template <class Hello>
Result<wire::HelloReply> greet(SocketHandle socket, const Hello & hello, TimePoint deadline) {
    auto reply = exchange_hello(socket, hello, deadline);
    if (!reply) {
        return fail(reply.error().code, "RPC handshake failed: {}", reply.error().text);
    }
    if (!is_compatible(*reply)) {
        return fail(Errc::unsupported, "the server speaks RPC protocol {}.{}.{}, this client {}.{}", reply->major,
                    reply->minor, reply->patch, wire::stock_major, wire::stock_minor);
    }
    return reply;
}

// Reads the reason that a server sends instead of a place in its queue.
std::unexpected<Error> refusal(SocketHandle socket, uint64_t size, TimePoint deadline) {
    std::string text(std::min<uint64_t>(size, max_refusal), '\0');
    if (auto got = receive_exact(socket, mutable_bytes(text.data(), text.size()), deadline); !got) {
        return std::unexpected(got.error());
    }
    return fail(Errc::unavailable, "{}", printable(text));
}

// `confirms`: the server expects a confirmation of each place in the queue.
Result<> await_admission(SocketHandle socket, const Queueing & queueing, bool confirms, TimePoint deadline) {
    const TimePoint began = Clock::now();
    TimePoint until = deadline;  // the first reply does not wait for a session
    const auto request = [&] { return send_exact(socket, wire::frame_header(wire::command_admission), until); };
    if (auto sent = request(); !sent) {
        return sent;
    }
    bool is_full = false;
    const auto timed_out = [&](std::string_view why) {
        return std::unexpected(Error{Errc::timed_out,
                                     formatted("no session in {} s: {}",
                                               std::chrono::round<seconds>(Clock::now() - began).count(), why),
                                     is_full ? full_advice() : handshake_advice(Errc::timed_out)});
    };
    for (std::string why = "the server did not reply";;) {
        struct {
            uint64_t size = 0;
            wire::AdmissionReply place{};
        } reply;
        auto got = receive_exact(socket, mutable_bytes(&reply.size, sizeof reply.size), until);
        if (got && reply.size >> wire::reply_kind_shift == static_cast<uint64_t>(wire::ReplyKind::ended)) {
            return refusal(socket, reply.size & wire::reply_size_mask, until);
        }
        if (got && reply.size != sizeof reply.place) {
            return fail(Errc::protocol, "unexpected reply of {} bytes to ADMISSION", reply.size);
        }
        got = got ? receive_exact(socket, mutable_bytes(&reply.place, sizeof reply.place), until) : got;
        if (!got) {
            return got.error().code == Errc::timed_out ? timed_out(why) : got;
        }
        if (reply.place.position == 0) {
            return {};
        }
        until = queueing.until;
        if (auto sent = confirms ? request() : Result<>(); !sent) {
            return sent;
        }
        is_full = reply.place.reason != wire::AdmissionReply::Reason::starting;
        why = describe(reply.place);
        if (queueing.on_wait) {
            queueing.on_wait(reply.place);
        }
        if (Clock::now() >= until) {  // with replies in rapid succession no receive times out
            return timed_out(why);
        }
    }
}

// What a connection may use: the caller's wish and the settings of both ends.
RdmaUse agreed_use(RdmaUse wanted, const Endpoint & endpoint, const wire::Extension & server) {
    if (wanted == RdmaUse::none || wanted == RdmaUse::required) {
        return wanted;
    }
    const bool only_rdma = server.is_caravan() && (server.features & wire::feature_only_rdma) != 0;
    const bool is_wanted = wanted == RdmaUse::preferred || wanted == RdmaUse::deferred;
    if (only_rdma || (is_wanted && transport_mode() == TransportMode::rdma)) {
        return RdmaUse::required;
    }
    const bool is_possible = transport_mode() != TransportMode::tcp && endpoint.kind == Endpoint::Kind::tcp;
    return is_wanted && is_possible ? wanted : RdmaUse::none;
}

std::unexpected<Error> no_rdma(const Endpoint & endpoint, const NoRdma & why, const wire::Extension & server = {}) {
    const bool own_setting = transport_mode() == TransportMode::rdma;
    if (own_setting || (server.features & wire::feature_only_rdma) == 0) {
        return fail(Errc::unsupported, why.reason, "{}: {}RDMA is not available: {}", endpoint.text(),
                    own_setting ? "GGML_RPC_TRANSPORT=rdma, but " : "", why.text);
    }
    return std::unexpected(Error{Errc::unsupported,
                                 formatted("{}: the server accepts only RDMA (GGML_RPC_TRANSPORT=rdma there), which is not "
                                           "available: {}", endpoint.text(), why.text),
                                 only_rdma_advice(endpoint), why.reason});
}

// This end's reason not to try RDMA; empty if there is none.
NoRdma own_reason_to_skip_rdma(const Endpoint & endpoint) {
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
        return NoRdma("Unix sockets do not support RDMA");
    }
    if (transport_mode() == TransportMode::tcp) {
        return NoRdma("GGML_RPC_TRANSPORT=tcp is set for this client");
    }
    if (!why_no_rdma().empty()) {
        NoRdma why("this client has no RDMA: " + why_no_rdma());
        why.reason = built_with_rdma ? Reason::no_rdma_library : Reason::unspecified;
        return why;
    }
    return NoRdma();
}

// The reason of either end.
NoRdma reason_to_skip_rdma(const Endpoint & endpoint, const wire::Extension & peer) {
    if (NoRdma own = own_reason_to_skip_rdma(endpoint); !own.empty()) {
        return own;
    }
    if (!peer.is_caravan()) {
        return NoRdma("the server is a stock one without RDMA");
    }
    if ((peer.features & wire::feature_rdma) == 0) {
        return NoRdma("the server has no RDMA");
    }
    return NoRdma();
}

#ifdef GGML_RPC_RDMA
rdma::RecentFailures recent_failures;

// Switches to RDMA, or stays on TCP if both sides agreed on that. If the negotiation fails otherwise (a late reply could
// arrive in the middle of the session), opens another connection without RDMA.
Result<Connected> upgrade(Connected opened, UniqueFd & socket, bool takes_rails, const Endpoint & endpoint, uint64_t token,
                          RdmaUse use, TimePoint deadline, const Queueing * queueing, const std::stop_token & stop) {
    auto upgraded = rdma::offer(socket, takes_rails, Clock::now() + (deadline - Clock::now()) / 2, stop);
    if (upgraded) {
        if (upgraded->transport != nullptr) {
            recent_failures.remove(endpoint.text());
        } else if (!upgraded->why_not.is_at_server && (upgraded->why_not.reason == Reason::no_rdma_path ||
                                                       upgraded->why_not.reason == Reason::rdma_setting)) {
            recent_failures.add(endpoint.text(), upgraded->why_not, Clock::now());
        }
        opened.transport = std::move(upgraded->transport);
        opened.why_not_rdma = std::move(upgraded->why_not);
        return opened;
    }
    if (upgraded.error().code == Errc::reset || use == RdmaUse::required) {
        return std::unexpected(upgraded.error());
    }
    socket.reset();
    auto again = shake_hands(endpoint, token, RdmaUse::none, deadline, queueing);
    if (again) {
        again->why_not_rdma = NoRdma(upgraded.error());
    }
    return again;
}
#endif

#ifdef GGML_RPC_RDMA
Result<std::unique_ptr<Transport>> open_stock_rdma(const Endpoint & endpoint, std::unique_ptr<rdma::QueuePair> pair,
                                                   TimePoint deadline) {
    auto socket = connect_socket(endpoint, deadline);
    if (!socket) {
        return std::unexpected(socket.error());
    }
    wire::HelloRequest hello{};
    store(hello.capabilities, rdma::stock_facts(*pair));
    const auto reply = greet(socket->get(), hello, deadline);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    const auto server = load<wire::StockRdma>(reply->capabilities);
    if (!wire::is_queue_pair(server)) {
        return fail(Errc::unavailable, "the server offers no queue pair");
    }
    return rdma::connect_to_stock(std::move(pair), std::move(*socket), server, deadline);
}

// The transport, or empty and the reason. `first`: the connection on which the server has shown that it has RDMA, and which is
// closed, because a stock server serves one connection after the other.
rdma::Upgrade try_stock_rdma(const Endpoint & endpoint, UniqueFd & first, TimePoint deadline) {
    auto pair = rdma::prepare_for_stock(first.get());
    first.reset();
    auto transport = pair ? open_stock_rdma(endpoint, std::move(*pair), deadline) : std::unexpected(pair.error());
    if (transport) {
        recent_failures.remove(endpoint.text());
        return {std::move(*transport), {}};
    }
    NoRdma why(transport.error());
    if (why.reason == Reason::no_rdma_path) {
        recent_failures.add(endpoint.text(), why, Clock::now());
    }
    return {nullptr, std::move(why)};
}
#endif

// Opens a connection to a stock server with RDMA. It may have taken the capabilities of `first` for a queue pair and use that
// now, so it needs another connection in any case: with a queue pair, or with zeros for TCP.
Result<Connected> open_stock(const Endpoint & endpoint, UniqueFd first, RdmaUse use, TimePoint deadline) {
    Connected opened;
    NoRdma & why = opened.why_not_rdma;
    why = use == RdmaUse::none ? NoRdma() : own_reason_to_skip_rdma(endpoint);
#ifdef GGML_RPC_RDMA
    if (use == RdmaUse::preferred && why.empty()) {
        why = recent_failures.reason(endpoint.text(), Clock::now());
    }
    if (use != RdmaUse::none && why.empty()) {
        auto upgrade = try_stock_rdma(endpoint, first, deadline);
        if (upgrade.transport != nullptr) {
            opened.transport = std::move(upgrade.transport);
            return opened;
        }
        why = std::move(upgrade.why_not);
    }
#endif
    if (use == RdmaUse::required) {
        return no_rdma(endpoint, why);
    }
    first.reset();
    auto socket = connect_socket(endpoint, deadline);
    if (!socket) {
        return std::unexpected(socket.error());
    }
    if (const auto reply = greet(socket->get(), wire::HelloRequest{}, deadline); !reply) {
        return fail(reply.error().code, "{}: {}", endpoint.text(), reply.error().text);
    }
    auto transport = make_socket_transport(std::move(*socket));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    opened.transport = std::move(*transport);
    return opened;
}

}  // namespace

std::string describe(const wire::AdmissionReply & place) {
    const uint32_t position = place.position, sessions = place.sessions;
    switch (place.reason) {
        case wire::AdmissionReply::Reason::server_full:
            return formatted("{} served, and this client is at place {} of the queue",
                             sessions == 1 ? "1 session is" : formatted("{} sessions are", sessions), position);
        case wire::AdmissionReply::Reason::address_full:
            return formatted("this client's address has reached its limit of sessions (--max-per-address), and the client is "
                             "at place {} of the queue", position);
        default: return "no worker process is ready";
    }
}

Result<Connected> shake_hands(const Endpoint & endpoint, uint64_t token, RdmaUse wanted, TimePoint deadline,
                              const Queueing * queueing, [[maybe_unused]] const std::stop_token & stop) {
    const auto patience = deadline - Clock::now();
    auto socket = connect_socket(endpoint, deadline);
    if (!socket) {
        return std::unexpected(socket.error());
    }
#ifdef GGML_RPC_RDMA
    if (wanted == RdmaUse::required && endpoint.kind == Endpoint::Kind::tcp) {
        if (const NoRdma why = rdma::why_unavailable(socket->get()); !why.empty()) {
            return no_rdma(endpoint, why);
        }
    }
#endif
    const auto reply = greet(socket->get(), token, deadline);
    if (!reply) {
        const Error & error = reply.error();
        return std::unexpected(
            Error{error.code, formatted("{}: {}", endpoint.text(), error.text), handshake_advice(error.code)});
    }
    const auto peer = load<wire::Extension>(reply->capabilities);
    RdmaUse use = agreed_use(wanted, endpoint, peer);
    // Connections of Unix sockets do not fail while both processes live.
    const bool can_resume = peer.is_caravan() && endpoint.kind == Endpoint::Kind::tcp &&
                            (peer.features & own_extension().features & wire::feature_resume) != 0;
    if (use == RdmaUse::deferred && (!can_resume || (token == 0 && peer.token == 0))) {
        use = RdmaUse::preferred;
    }
    if (wire::is_queue_pair(load<wire::StockRdma>(reply->capabilities))) {
        return open_stock(endpoint, std::move(*socket), use, deadline);
    }
    NoRdma why_not = use == RdmaUse::none ? NoRdma() : reason_to_skip_rdma(endpoint, peer);
#ifdef GGML_RPC_RDMA
    if (use == RdmaUse::required && wanted != use && why_not.empty()) {
        why_not = rdma::why_unavailable(socket->get());
    }
#endif
    if (use == RdmaUse::required && !why_not.empty()) {
        return no_rdma(endpoint, why_not, peer);
    }
    if (queueing != nullptr && peer.is_caravan() && (peer.features & wire::feature_admission) != 0) {
        const bool confirms = (peer.features & wire::feature_confirm) != 0;
        if (auto admitted = await_admission(socket->get(), *queueing, confirms, deadline); !admitted) {
            Error & error = admitted.error();
            return std::unexpected(
                Error{error.code, formatted("{}: {}", endpoint.text(), error.text), std::move(error.advice)});
        }
        deadline = Clock::now() + patience;
    }
    Connected opened;
    opened.peer_is_caravan = peer.is_caravan();
    opened.peer_is_native = peer.is_caravan() && dialect_is_native() && (peer.features & wire::feature_native) != 0;
    opened.shares_memory = peer.is_caravan() && (peer.features & own_extension().features & wire::feature_shared_memory) != 0;
    opened.token = peer.token;
    opened.can_resume = can_resume;
    opened.why_not_rdma = std::move(why_not);
#ifdef GGML_RPC_RDMA
    if ((use == RdmaUse::preferred || use == RdmaUse::deferred) && opened.why_not_rdma.empty()) {
        opened.why_not_rdma = recent_failures.reason(endpoint.text(), Clock::now());
    }
    if (use == RdmaUse::deferred && opened.why_not_rdma.empty()) {
        opened.why_not_rdma = rdma::why_unavailable(socket->get());
        opened.may_upgrade = opened.why_not_rdma.empty();
    } else if (use != RdmaUse::none && opened.why_not_rdma.empty()) {
        const bool takes_rails = (peer.features & wire::feature_rails) != 0;
        auto upgraded = upgrade(std::move(opened), *socket, takes_rails, endpoint, token, use, deadline, queueing, stop);
        if (!upgraded || upgraded->transport != nullptr) {
            return upgraded;
        }
        opened = std::move(*upgraded);
    }
    if (use == RdmaUse::required) {
        return no_rdma(endpoint, opened.why_not_rdma, peer);
    }
#endif
    // A session that cannot be resumed waits for a silent network, which may recover.
    auto transport = make_socket_transport(std::move(*socket), opened.can_resume ? tunable::network_patience : seconds(0));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    opened.transport = std::move(*transport);
    return opened;
}

}  // namespace caravan::net
