#include "net/rdma/upgrade.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/formatted.h"
#include "base/log.h"
#include "base/printable.h"
#include "net/exact_io.h"
#include "net/rdma/proof.h"
#include "net/rdma/ring_transport.h"
#include "platform/poll.h"
#include "tunables/rdma.h"
#include "wire/frame.h"

namespace caravan::net::rdma {
namespace {

static_assert(sizeof(PeerFacts) == wire::queue_pair_facts_size);

// The client sends nothing over TCP before its verdict.
bool is_readable(SocketHandle socket) {
    std::array<platform::Watch, 1> watch{{{socket, platform::readable, 0}}};
    const auto ready = platform::poll(watch, 0);
    return !ready || *ready != 0;
}

Result<std::unique_ptr<QueuePair>> probe(SocketHandle socket) {
    auto choice = choose(scan_ports(), criteria_from_environment(socket));
    if (!choice) {
        return std::unexpected(choice.error());
    }
    auto pair = QueuePair::create(*choice, Geometry{});
    if (pair) {
        log_info("RDMA probed: dev={} gid={} qpn={} inline={}", choice->device, choice->gid.index, (*pair)->qpn(),
                 (*pair)->max_inline());
    }
    return pair;
}

Gid gid_of(const PeerFacts & facts) {
    Gid gid;
    std::ranges::copy(facts.gid, gid.begin());
    return gid;
}

// Refuses a GID that cannot be the peer's. RDMA may use other interfaces than TCP, so another address is no fault.
Result<> check_gid(SocketHandle socket, const PeerFacts & peer, const Choice & own) {
    const Gid gid = gid_of(peer);
    if (!own.is_infiniband && gid == Gid{}) {
        return fail(Errc::protocol, "the peer's GID is zero");
    }
    const auto remote = platform::peer_address(socket).and_then([](const auto & address) { return address.ip(); });
    const auto local = platform::local_address(socket).and_then([](const auto & address) { return address.ip(); });
    if (!remote || gid == *remote) {
        return {};
    }
    if (gid == own.gid.gid && remote != local && !platform::is_loopback(*remote)) {
        return fail(Errc::protocol, "the peer's GID {} is that of this machine", text_of(gid));
    }
    log_debug("the peer's GID {} is not its address {} of the connection", text_of(gid), text_of(*remote));
    return {};
}

// If GGML_RDMA_GID chose another GID than the connection's address, failures of RDMA are first of all that setting's.
NoRdma blame_setting(NoRdma why, SocketHandle socket, const Choice & own) {
    const Criteria criteria = criteria_from_environment(socket);
    if (why.reason != Reason::no_rdma_path || !criteria.gid || criteria.local_address == own.gid.gid) {
        return why;
    }
    why.text = formatted("GGML_RDMA_GID={} of this machine selects {}, with which RDMA fails: {}", *criteria.gid,
                         text_of(own.gid.gid), why.text);
    why.reason = Reason::rdma_setting;
    why.is_at_server = false;
    return why;
}

Result<Upgrade> activate(std::unique_ptr<QueuePair> pair, UniqueFd & socket) {
    log_info("RDMA activated: qpn={}->{} mtu={} rx_depth={}", pair->qpn(), pair->peer_qpn(), pair->mtu(),
             pair->geometry().depth);
    auto transport = make_ring_transport(std::move(pair), std::move(socket));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    return Upgrade{std::move(*transport), {}};
}

Result<> send_verdict(SocketHandle socket, bool use_rdma, TimePoint deadline) {
    const wire::RdmaVerdict verdict{static_cast<uint8_t>(use_rdma ? 1 : 0)};
    return send_exact(socket, wire::frame(wire::command_rdma_verdict, verdict), deadline);
}

// True: the client chose RDMA.
Result<bool> receive_verdict(SocketHandle socket, TimePoint deadline) {
    std::byte bytes[sizeof(wire::RequestHeader) + sizeof(wire::RdmaVerdict)];
    if (auto got = receive_exact(socket, bytes, deadline); !got) {
        return std::unexpected(got.error());
    }
    const auto header = load<wire::RequestHeader>(bytes);
    const auto verdict = load<wire::RdmaVerdict>(bytes + sizeof header);
    if (header.command != wire::command_rdma_verdict || header.size != sizeof verdict) {
        return fail(Errc::protocol, "the client did not send a verdict on RDMA");
    }
    return verdict.use_rdma == 1;
}

Result<> answer_offer(SocketHandle socket, const PeerFacts * facts, std::string_view reason) {
    wire::RdmaReply message{};
    if (facts != nullptr) {
        message.accepted = 1;
        std::memcpy(message.queue_pair, facts, sizeof *facts);
    }
    std::memcpy(message.reason, reason.data(), std::min(reason.size(), sizeof message.reason - 1));
    return send_exact(socket, wire::reply_frame(message), Clock::now() + tunable::rdma_verdict_timeout);
}

}  // namespace

NoRdma why_unavailable(SocketHandle socket) {
    const auto choice = choose(scan_ports(), criteria_from_environment(socket));
    return choice ? NoRdma() : NoRdma(choice.error());
}

Result<Upgrade> offer(UniqueFd & socket, TimePoint deadline, const std::stop_token & stop) {
    auto pair = probe(socket.get());
    if (!pair) {
        return Upgrade{nullptr, NoRdma(pair.error())};
    }
    const PeerFacts facts = (*pair)->facts();
    if (auto sent = send_exact(socket.get(), wire::frame(wire::command_rdma_offer, facts), deadline); !sent) {
        return std::unexpected(sent.error());
    }
    uint64_t size = 0;
    wire::RdmaReply reply{};
    auto got = receive_exact(socket.get(), mutable_bytes(&size, sizeof size), deadline);
    if (got && size != sizeof reply) {
        got = fail(Errc::protocol, "unexpected reply of {} bytes to RDMA_OFFER", size);
    }
    got = got ? receive_exact(socket.get(), mutable_bytes(&reply, sizeof reply), deadline) : got;
    if (!got) {
        return std::unexpected(got.error());
    }
    if (reply.accepted != 1) {
        const std::string_view reason(reply.reason, strnlen(reply.reason, sizeof reply.reason));
        NoRdma why(formatted("server: {}", printable(reason)));
        why.reason = reason_in(reason);
        why.is_at_server = true;
        return Upgrade{nullptr, blame_setting(std::move(why), socket.get(), (*pair)->choice())};
    }
    const TimePoint began = Clock::now();
    const auto has_stopped = [&] { return stop.stop_requested(); };
    const auto verify = [&]() -> Result<> {
        const auto peer = load<PeerFacts>(reply.queue_pair);
        const uint8_t traffic_class = agreed_traffic_class(peer.traffic_class, facts.traffic_class);
        auto connected = check_gid(socket.get(), peer, (*pair)->choice());
        connected = connected ? (*pair)->connect(peer, traffic_class) : connected;
        if (!connected) {
            return connected;
        }
        const TimePoint until = std::min(deadline, began + tunable::rdma_proof_timeout);
        if (auto proved = prove_write(**pair, until, has_stopped); !proved) {
            return proved;
        }
        if (auto sent = send_token(**pair); !sent) {
            return sent;
        }
        return receive_token(**pair, until, has_stopped);
    };
    const auto verified = verify();
    if (auto sent = send_verdict(socket.get(), verified.has_value(), deadline); !sent) {
        return std::unexpected(sent.error());
    }
    if (!verified && stop.stop_requested()) {
        const auto lasted = Clock::now() - began;
        if (lasted < tunable::rdma_cancelled_proof) {
            return Upgrade{nullptr, NoRdma("the session closed before RDMA was ready")};
        }
        const Error none{Errc::unavailable,
                         formatted("no message gets through over RDMA: none did in {:.1f} s, until the session closed",
                                   std::chrono::duration<double>(lasted).count()),
                         {},
                         Reason::no_rdma_path};
        return Upgrade{nullptr, NoRdma(none)};
    }
    if (!verified) {
        return Upgrade{nullptr, blame_setting(NoRdma(verified.error()), socket.get(), (*pair)->choice())};
    }
    return activate(std::move(*pair), socket);
}

Result<Upgrade> answer(UniqueFd & socket, const wire::RdmaOffer & offered) {
    auto pair = probe(socket.get());
    const auto peer = load<PeerFacts>(offered.queue_pair);
    auto connected = pair ? check_gid(socket.get(), peer, (*pair)->choice()) : std::unexpected(pair.error());
    connected = connected ? (*pair)->connect(peer, agreed_traffic_class((*pair)->facts().traffic_class, peer.traffic_class))
                          : connected;
    const PeerFacts facts = connected ? (*pair)->facts() : PeerFacts{};
    if (auto sent = answer_offer(socket.get(), connected ? &facts : nullptr, connected ? "" : connected.error().text);
        !sent) {
        return std::unexpected(sent.error());
    }
    if (!connected) {
        return Upgrade{nullptr, NoRdma(connected.error())};
    }
    const TimePoint replied_at = Clock::now(), until = replied_at + tunable::rdma_token_timeout;
    auto verified = receive_token(**pair, until, [&] { return is_readable(socket.get()); });
    if (verified) {
        verified = prove_write(**pair, until);
    }
    if (verified) {
        verified = send_token(**pair);
    }
    // The verdict tells whether the client received the token. The transport handles the completion of that send, because
    // data may arrive before it.
    const auto use_rdma = receive_verdict(socket.get(), replied_at + tunable::rdma_verdict_timeout);
    if (!use_rdma) {
        return std::unexpected(use_rdma.error());
    }
    if (!*use_rdma) {
        return Upgrade{nullptr, verified ? NoRdma("the client cannot use the network path") : NoRdma(verified.error())};
    }
    if (!verified) {
        return fail(Errc::protocol, "the client confirmed a token over RDMA that was never sent");
    }
    return activate(std::move(*pair), socket);
}

}  // namespace caravan::net::rdma
