#include "net/handshake.h"

#include <cstdlib>
#include <string_view>

#include "base/log.h"
#include "net/exact_io.h"
#include "net/socket.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/upgrade.h"
#endif

namespace caravan::net {
namespace {

Result<wire::HelloAnswer> shake_hands(int socket, TimePoint deadline) {
    std::byte request[sizeof(wire::RequestHeader) + sizeof(wire::HelloRequest)];
    store(request, wire::RequestHeader{wire::Command::hello, sizeof(wire::HelloRequest)});
    store(request + sizeof(wire::RequestHeader), own_extension());
    auto done = send_exact(socket, request, deadline);
    uint64_t size = 0;
    wire::HelloAnswer answer{};
    done = done ? receive_exact(socket, mutable_bytes(&size, sizeof size), deadline) : done;
    if (done && size != sizeof answer) {
        done = fail(Errc::protocol, "an answer of {} bytes", size);
    }
    done = done ? receive_exact(socket, mutable_bytes(&answer, sizeof answer), deadline) : done;
    if (!done) {
        return fail(done.error().code, "no RPC handshake: {}", done.error().text);
    }
    if (answer.major != wire::stock_major || answer.minor > wire::stock_minor) {
        return fail(Errc::unsupported,
                    "the server speaks RPC protocol {}.{}.{}, this client {}.{}: run matching versions", answer.major,
                    answer.minor, answer.patch, wire::stock_major, wire::stock_minor);
    }
    return answer;
}

// The reason why RDMA is not even tried, or nothing.
std::string reason_not_to_try(const wire::Extension & peer) {
    if (!has_rdma) {
        return "this client was built without RDMA";
    }
    if (!peer.is_caravan()) {
        return "the server is a stock one";
    }
    if ((peer.features & wire::feature_rdma) == 0) {
        return "the server has no RDMA";
    }
    return "";
}

}  // namespace

TransportWish transport_wish() {
    static const TransportWish wish = [] {
        const char * value = std::getenv("GGML_RPC_TRANSPORT");
        const std::string_view text = value == nullptr ? "" : value;
        if (text == "tcp") {
            return TransportWish::tcp;
        }
        if (text == "rdma") {
            return TransportWish::rdma;
        }
        if (!text.empty() && text != "auto") {
            log_warning("GGML_RPC_TRANSPORT=\"{}\" is neither auto, tcp nor rdma: using auto", text);
        }
        return TransportWish::automatic;
    }();
    return wish;
}

wire::Extension own_extension() {
    wire::Extension extension;
    extension.features = has_rdma && transport_wish() != TransportWish::tcp ? wire::feature_rdma : 0;
    return extension;
}

Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline) {
    auto socket = connect_socket(endpoint, deadline);
    if (!socket) {
        return std::unexpected(socket.error());
    }
    const auto answer = shake_hands(socket->get(), deadline);
    if (!answer) {
        return fail(answer.error().code, "{}: {}", endpoint.text(), answer.error().text);
    }
    const auto peer = load<wire::Extension>(answer->capabilities);
    Opened opened;
    opened.peer_is_caravan = peer.is_caravan();
    if (for_session && transport_wish() != TransportWish::tcp) {
        opened.why_not_rdma = reason_not_to_try(peer);
#ifdef GGML_RPC_RDMA
        if (opened.why_not_rdma.empty()) {
            auto upgraded = rdma::offer(*socket, deadline);
            if (upgraded) {
                opened.transport = std::move(*upgraded);
                return opened;
            }
            opened.why_not_rdma = upgraded.error().text;
        }
#endif
        if (transport_wish() == TransportWish::rdma) {
            return fail(Errc::unavailable, "{}: no RDMA, which GGML_RPC_TRANSPORT=rdma asks for: {}", endpoint.text(),
                        opened.why_not_rdma);
        }
    }
    auto transport = make_socket_transport(std::move(*socket));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    opened.transport = std::move(*transport);
    return opened;
}

Result<Accepted> open_server(UniqueFd socket, ConstBytes first) {
    Accepted accepted;
#ifdef GGML_RPC_RDMA
    const auto header = first.size() == sizeof(wire::RequestHeader) ? load<wire::RequestHeader>(first.data())
                                                                    : wire::RequestHeader{};
    const bool is_offer = header.command == wire::command_rdma_offer && header.size == sizeof(wire::RdmaOffer);
    if (is_offer && transport_wish() != TransportWish::tcp) {
        wire::RdmaOffer offer{};
        if (auto got = receive_exact(socket.get(), mutable_bytes(&offer, sizeof offer), Clock::now() + seconds(10)); !got) {
            return std::unexpected(got.error());
        }
        accepted.first_is_used = true;
        auto upgraded = rdma::answer(socket, offer);
        if (upgraded) {
            accepted.transport = std::move(*upgraded);
            return accepted;
        }
        log_info("RDMA not activated: {}; the session goes on over TCP", upgraded.error().text);
    }
#else
    (void)first;
#endif
    if (has_rdma && transport_wish() == TransportWish::rdma) {
        return fail(Errc::unavailable, "the session has no RDMA, which GGML_RPC_TRANSPORT=rdma asks for");
    }
    auto transport = make_socket_transport(std::move(socket));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    accepted.transport = std::move(*transport);
    return accepted;
}

}  // namespace caravan::net
