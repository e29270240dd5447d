#include "net/rdma/stock_upgrade.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/config.h"
#include "base/log.h"
#include "net/exact_io.h"
#include "net/inbound.h"
#include "net/rdma/choice.h"
#include "net/rdma/stock_transport.h"
#include "platform/socket.h"
#include "tunables/rdma.h"
#include "wire/frame.h"
#include "wire/stock.h"

namespace caravan::net::rdma {
namespace {

// A stock peer that is not ready to receive delays the sender; 7 means without limit.
constexpr Geometry geometry{.slot_size = wire::stock_message_size,
                            .depth = wire::stock_receive_depth,
                            .send_slot_size = tunable::ring_slot_size,
                            .rnr_retries = 7};

Result<> connect(QueuePair & pair, const wire::StockRdma & peer) {
    PeerFacts facts;
    facts.qpn = peer.qpn;
    facts.psn = peer.psn;
    std::ranges::copy(peer.gid, facts.gid);
    facts.mtu = pair.choice().mtu;  // a stock peer sends none: both ports must have the same
    facts.slot_size = wire::stock_message_size;
    facts.depth = wire::stock_receive_depth;
    if (auto connected = pair.connect(facts, pair.facts().traffic_class); !connected) {
        return connected;
    }
    log_info("RDMA activated: qpn={}->{} mtu={} rx_depth={} (stock peer)", pair.qpn(), pair.peer_qpn(), pair.mtu(),
             pair.geometry().depth);
    return {};
}

// Asks how much memory a tensor of one number needs.
Result<> prove(Transport & transport, TimePoint until) {
    wire::GetAllocSizeRequest query{};
    query.tensor.id = 1;
    std::ranges::fill(query.tensor.ne, 1u);
    std::ranges::fill(query.tensor.nb, static_cast<uint32_t>(sizeof(float)));
    uint64_t answer[2] = {};  // size of the reply, and the reply
    auto done = send_all(transport, {wire::frame(wire::Command::get_alloc_size, query)}, until - Clock::now());
    done = done ? receive_whole(transport, mutable_bytes(answer, sizeof answer), until) : done;
    if (!done) {
        return fail(done.error().code, Reason::no_rdma_path, "no message gets through over RDMA: {}", done.error().text);
    }
    return answer[0] == sizeof answer[1] ? Result<>()
                                         : fail(Errc::protocol, Reason::no_rdma_path, "unexpected message over RDMA");
}

}  // namespace

Result<std::unique_ptr<QueuePair>> prepare_for_stock(SocketHandle socket) {
    auto choice = choose(scan_ports(), criteria_from_environment(socket));
    if (!choice) {
        return std::unexpected(choice.error());
    }
    if (choice->is_infiniband) {
        return fail(Errc::unsupported, "stock peers use RDMA over Ethernet only");
    }
    auto pair = QueuePair::create(*choice, geometry);
    if (pair) {
        log_info("RDMA probed: dev={} gid={} qpn={} inline={}", choice->device, choice->gid.index, (*pair)->qpn(),
                 (*pair)->max_inline());
    }
    return pair;
}

wire::StockRdma stock_facts(const QueuePair & pair) {
    const PeerFacts facts = pair.facts();
    wire::StockRdma out{facts.qpn, facts.psn, {}};
    std::ranges::copy(facts.gid, out.gid);
    return out;
}

Result<std::unique_ptr<Transport>> connect_to_stock(std::unique_ptr<QueuePair> pair, UniqueFd socket,
                                                    const wire::StockRdma & server, TimePoint deadline) {
    if (auto connected = connect(*pair, server); !connected) {
        return std::unexpected(connected.error());
    }
    auto transport = make_stock_transport(std::move(pair), std::move(socket), StockFields::Sender::client);
    if (!transport) {
        return transport;
    }
    std::this_thread::sleep_for(tunable::stock_server_delay);
    const auto proved = prove(**transport, std::min(deadline, Clock::now() + tunable::rdma_proof_timeout));
    return proved ? std::move(transport) : std::unexpected(proved.error());
}

Result<Upgrade> answer_stock(UniqueFd & socket, const wire::StockRdma & client) {
    auto pair = prepare_for_stock(socket.get());
    const auto connected = pair ? connect(**pair, client) : std::unexpected(pair.error());
    wire::HelloReply hello{wire::stock_major, wire::stock_minor, wire::stock_patch, 0, {}};
    if (connected) {
        store(hello.capabilities, stock_facts(**pair));
    }
    if (auto sent = send_exact(socket.get(), wire::reply_frame(hello), Clock::now() + tunable::rdma_verdict_timeout); !sent) {
        return std::unexpected(sent.error());
    }
    if (!connected) {
        return Upgrade{nullptr, NoRdma(connected.error())};
    }
    UniqueFd tcp = std::move(socket);
    auto copy = platform::duplicate(tcp.get());
    if (!copy) {
        return std::unexpected(copy.error());
    }
    auto transport = make_stock_transport(std::move(*pair), std::move(*copy), StockFields::Sender::server);
    if (!transport) {
        return std::unexpected(transport.error());
    }
    const auto ready = (*transport)->wait({.read = true}, Clock::now() + tunable::rdma_token_timeout, microseconds(0));
    if (!ready) {
        return std::unexpected(ready.error());
    }
    if (platform::peek(tcp.get()).status == platform::Moved::Status::some) {
        socket = std::move(tcp);
        return Upgrade{nullptr, NoRdma("the client cannot use the server's queue pair")};
    }
    return Upgrade{std::move(*transport), {}};
}

}  // namespace caravan::net::rdma
