#include "net/rdma/upgrade.h"

#include <algorithm>
#include <array>
#include <ranges>
#include <utility>
#include <vector>

#include "base/formatted.h"
#include "base/log.h"
#include "base/printable.h"
#include "net/exact_io.h"
#include "net/rdma/offer.h"
#include "net/rdma/proof.h"
#include "net/rdma/ring_transport.h"
#include "platform/poll.h"
#include "tunables/rdma.h"
#include "wire/frame.h"

namespace caravan::net::rdma {
namespace {

using Pairs = std::vector<std::unique_ptr<QueuePair>>;

// The client sends nothing over TCP before its verdict.
bool is_readable(SocketHandle socket) {
    std::array<platform::Watch, 1> watch{{{socket, platform::readable, 0}}};
    const auto ready = platform::poll(watch, 0);
    return !ready || *ready != 0;
}

Result<std::unique_ptr<QueuePair>> create(const Choice & choice) {
    auto pair = QueuePair::create(choice, Geometry{});
    if (pair) {
        log_info("RDMA probed: dev={} gid={} qpn={} inline={}", choice.device, choice.gid.index, (*pair)->qpn(),
                 (*pair)->max_inline());
    }
    return pair;
}

void log_omission(const Choice & choice, const Error & error) {
    log_info("RDMA: a queue pair of {} is not used: {}", choice.device, error.text);
}

// The client's queue pairs: one, or as many as there are rails if the server `takes_rails`.
Result<Pairs> create_for_offer(SocketHandle socket, bool takes_rails) {
    const auto ports = scan_ports();
    const auto criteria = criteria_from_environment(socket);
    const auto first = choose(ports, criteria);
    if (!first) {
        return std::unexpected(first.error());
    }
    const auto choices = takes_rails ? choose_rails(ports, criteria, *first, platform::interface_addresses())
                                     : std::vector{*first};
    Pairs pairs;
    for (const Choice & choice : choices) {
        auto pair = create(choice);
        if (pair) {
            pairs.push_back(std::move(*pair));
        } else if (pairs.empty()) {
            return std::unexpected(pair.error());
        } else {
            log_omission(choice, pair.error());
        }
    }
    return pairs;
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

bool is_same_queue_pair(const PeerFacts & a, const PeerFacts & b) {
    return a.qpn == b.qpn && a.lid == b.lid && gid_of(a) == gid_of(b);
}

// Connects queue pairs to the peer's. One after the first is tried once, and left out if the connections before it took long,
// as where the kernel has to wait for a hardware address: the first one and the peer wait too.
class Connecting {
public:
    explicit Connecting(SocketHandle socket) : socket_(socket) {}

    Result<> operator()(QueuePair & pair, const PeerFacts & peer, uint8_t traffic_class) {
        const bool is_first = std::exchange(is_first_, false);
        if (spent_ > tunable::rdma_rail_patience) {
            return fail(Errc::timed_out, "connecting the others took too long");
        }
        // The first attempt takes the kernel a second for a GID that no machine answers for, and so does the next one. Only the
        // address of the connection is known to answer.
        const auto remote = platform::peer_address(socket_).and_then([](const auto & address) { return address.ip(); });
        const int tries = is_first && remote && gid_of(peer) == *remote ? 2 : 1;
        auto done = check_gid(socket_, peer, pair.choice());
        const TimePoint began = Clock::now();
        done = done ? pair.connect(peer, traffic_class, real_calls(), tries) : done;
        spent_ += Clock::now() - began;
        return done;
    }

private:
    const SocketHandle socket_;
    bool is_first_ = true;
    Clock::duration spent_{};
};

uint8_t bits(std::span<const Result<>> results) {
    unsigned out = 0;
    for (size_t i = 0; i < results.size(); ++i) {
        out |= results[i] ? 1u << i : 0u;
    }
    return static_cast<uint8_t>(out);
}

// `used`: a bit for each of `pairs`; the peer has the same.
Result<Upgrade> activate(Pairs pairs, unsigned used, UniqueFd & socket) {
    Pairs active;
    for (size_t i = 0; i < pairs.size(); ++i) {
        if ((used >> i & 1) != 0) {
            log_info("RDMA activated: qpn={}->{} mtu={} rx_depth={}", pairs[i]->qpn(), pairs[i]->peer_qpn(), pairs[i]->mtu(),
                     pairs[i]->geometry().depth);
            active.push_back(std::move(pairs[i]));
        }
    }
    auto transport = make_ring_transport(std::move(active), std::move(socket));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    return Upgrade{std::move(*transport), {}};
}

Result<> send_verdict(SocketHandle socket, uint8_t used, TimePoint deadline) {
    const wire::RdmaVerdict verdict{used};
    return send_exact(socket, wire::frame(wire::command_rdma_verdict, verdict), deadline);
}

// A bit for each queue pair that the client uses.
Result<uint8_t> receive_verdict(SocketHandle socket, TimePoint deadline) {
    std::byte bytes[sizeof(wire::RequestHeader) + sizeof(wire::RdmaVerdict)];
    if (auto got = receive_exact(socket, bytes, deadline); !got) {
        return got.error().code == Errc::timed_out
                   ? fail(Errc::timed_out, "the client sent no verdict on RDMA within {} s",
                          tunable::rdma_verdict_timeout.count())
                   : std::unexpected(got.error());
    }
    const auto header = load<wire::RequestHeader>(bytes);
    const auto verdict = load<wire::RdmaVerdict>(bytes + sizeof header);
    if (header.command != wire::command_rdma_verdict || header.size != sizeof verdict) {
        return fail(Errc::protocol, "the client did not send a verdict on RDMA");
    }
    return verdict.use_rdma;
}

// Connects the client's queue pairs to those of the reply. Errors are those of the first pair; others are left out.
Result<> connect_to(SocketHandle socket, Pairs & pairs, const OfferReply & reply) {
    if ((reply.accepted & 1) == 0 || reply.accepted >> pairs.size() != 0) {
        return fail(Errc::protocol, "the server accepts queue pairs that were not offered");
    }
    Connecting connect(socket);
    for (size_t i = 0; i < pairs.size(); ++i) {
        const PeerFacts & peer = reply.facts[i];
        const auto is_same = [&](const PeerFacts & other) { return is_same_queue_pair(other, peer); };
        Result<> connected;
        if ((reply.accepted >> i & 1) == 0) {
            connected = fail(Errc::unavailable, "the server has no port for it");
        } else if (std::ranges::any_of(std::span(reply.facts).first(i), is_same)) {
            connected = fail(Errc::protocol, "the server named its queue pair twice");
        } else {
            const uint8_t traffic_class = agreed_traffic_class(peer.traffic_class, pairs[i]->facts().traffic_class);
            connected = connect(*pairs[i], peer, traffic_class);
        }
        if (!connected) {
            if (i == 0) {
                return connected;
            }
            log_omission(pairs[i]->choice(), connected.error());
            pairs[i].reset();
        }
    }
    return {};
}

// The server's queue pairs, connected to the client's; null: that one is declined. The first is not null.
Result<Pairs> connect_for(SocketHandle socket, std::span<const PeerFacts> offered) {
    const auto ports = scan_ports();
    const auto criteria = criteria_from_environment(socket);
    const auto first = choose(ports, criteria);
    if (!first) {
        return std::unexpected(first.error());
    }
    const auto addresses = offered.size() > 1 ? platform::interface_addresses() : std::vector<platform::InterfaceAddress>();
    std::vector<Choice> chosen;
    Pairs pairs(offered.size());
    Connecting connect(socket);
    for (size_t i = 0; i < offered.size(); ++i) {
        const PeerFacts & peer = offered[i];
        const auto choice = i == 0 ? std::optional(*first)
                                   : choose_for(gid_of(peer), gid_of(offered.front()), ports, criteria, chosen, addresses);
        if (!choice) {
            log_debug("RDMA: no port for the client's queue pair of {}", text_of(gid_of(peer)));
            continue;
        }
        auto pair = create(*choice);
        Result<> connected = pair ? Result<>() : std::unexpected(pair.error());
        if (pair) {
            const uint8_t traffic_class = agreed_traffic_class((*pair)->facts().traffic_class, peer.traffic_class);
            connected = connect(**pair, peer, traffic_class);
        }
        if (connected) {
            pairs[i] = std::move(*pair);
            chosen.push_back(*choice);
        } else if (i == 0) {
            return std::unexpected(connected.error());
        } else {
            log_omission(*choice, connected.error());
        }
    }
    return pairs;
}

}  // namespace

NoRdma why_unavailable(SocketHandle socket) {
    const auto choice = choose(scan_ports(), criteria_from_environment(socket));
    return choice ? NoRdma() : NoRdma(choice.error());
}

Result<Upgrade> offer(UniqueFd & socket, bool takes_rails, TimePoint deadline, const std::stop_token & stop) {
    auto pairs = create_for_offer(socket.get(), takes_rails);
    if (!pairs) {
        return Upgrade{nullptr, NoRdma(pairs.error())};
    }
    const Choice first = pairs->front()->choice();
    std::vector<PeerFacts> offered;
    for (const auto & pair : *pairs) {
        offered.push_back(pair->facts());
    }
    const auto reply = exchange_offer(socket.get(), offered, deadline);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->accepted == 0) {
        NoRdma why(formatted("server: {}", printable(reply->reason)));
        why.reason = reason_in(reply->reason);
        why.is_at_server = true;
        return Upgrade{nullptr, blame_setting(std::move(why), socket.get(), first)};
    }
    const TimePoint began = Clock::now();
    const auto has_stopped = [&] { return stop.stop_requested(); };
    std::vector<Result<>> results{connect_to(socket.get(), *pairs, *reply)};
    if (results.front()) {
        const TimePoint until = std::min(deadline, Clock::now() + tunable::rdma_proof_timeout);
        results = prove(*pairs, Prover::client, until, has_stopped);
    }
    const uint8_t used = bits(results);
    if (auto sent = send_verdict(socket.get(), used, deadline); !sent) {
        return std::unexpected(sent.error());
    }
    if (used == 0 && stop.stop_requested()) {
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
    if (used == 0) {
        return Upgrade{nullptr, blame_setting(NoRdma(results.front().error()), socket.get(), first)};
    }
    for (size_t i = 0; i < pairs->size(); ++i) {
        if ((*pairs)[i] != nullptr && !results[i]) {
            log_omission((*pairs)[i]->choice(), results[i].error());
        }
    }
    return activate(std::move(*pairs), used, socket);
}

Result<Upgrade> answer(UniqueFd & socket, std::span<const PeerFacts> offered, bool as_rails) {
    const auto repeats = [&](size_t i) {
        return std::ranges::any_of(offered.first(i), [&](const auto & other) { return is_same_queue_pair(other, offered[i]); });
    };
    const bool has_duplicate = std::ranges::any_of(std::views::iota(size_t{0}, offered.size()), repeats);
    auto pairs = offered.empty() || offered.size() > wire::max_rails
                     ? fail(Errc::protocol, "the client offers no queue pair, or more than {}", wire::max_rails)
                 : has_duplicate ? fail(Errc::protocol, "the client offers the same queue pair twice")
                                 : connect_for(socket.get(), offered);
    OfferReply reply{.reason = pairs ? "" : pairs.error().text};
    for (size_t i = 0; pairs && i < pairs->size(); ++i) {
        if ((*pairs)[i] != nullptr) {
            reply.accepted = static_cast<uint8_t>(reply.accepted | 1u << i);
            reply.facts[i] = (*pairs)[i]->facts();
        }
    }
    if (auto sent = send_reply(socket.get(), reply, as_rails, Clock::now() + tunable::rdma_verdict_timeout); !sent) {
        return std::unexpected(sent.error());
    }
    if (!pairs) {
        return Upgrade{nullptr, NoRdma(pairs.error())};
    }
    const TimePoint replied_at = Clock::now(), until = replied_at + tunable::rdma_token_timeout;
    const auto results = prove(*pairs, Prover::server, until, [&] { return is_readable(socket.get()); });
    // The verdict tells which tokens the client received. The transport handles the completions of those sends, because data
    // may arrive before them.
    const auto used = receive_verdict(socket.get(), replied_at + tunable::rdma_verdict_timeout);
    if (!used) {
        return std::unexpected(used.error());
    }
    if (*used == 0 || (!as_rails && *used != 1)) {
        const Result<> & first = results.front();
        return Upgrade{nullptr, first ? NoRdma("the client cannot use the network path") : NoRdma(first.error())};
    }
    if ((*used & ~bits(results)) != 0) {
        const auto failed = std::ranges::find_if(results, [](const Result<> & result) { return !result; });
        return fail(Errc::protocol, "the client confirmed a token over RDMA that was never sent{}",
                    failed == results.end() ? "" : formatted(", because {}", failed->error().text));
    }
    return activate(std::move(*pairs), *used, socket);
}

}  // namespace caravan::net::rdma
