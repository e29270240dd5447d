#include "doctor/endpoint.h"

#include "base/formatted.h"
#include "net/advice.h"
#include "net/hello.h"
#include "net/opening.h"
#include "net/socket.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/choice.h"
#endif

namespace caravan::doctor {
namespace {

using Stage = EndpointFacts::Stage;

// Limit of negotiating RDMA on each side if no message arrives.
constexpr seconds upgrade_limit{10};

std::string local_address(SocketHandle socket) {
    const auto address = platform::local_address(socket);
    return address ? address->host() : "";
}

bool is_loopback(std::string_view address) { return address.starts_with("127.") || address == "::1"; }

#ifdef GGML_RPC_RDMA
GidChoice choose_for(SocketHandle socket) {
    const net::rdma::Criteria criteria = net::rdma::criteria_from_environment(socket);
    const auto chosen = net::rdma::choose(net::rdma::scan_ports(), criteria);
    if (!chosen) {
        return {.why = chosen.error().text};
    }
    GidChoice out{true, chosen->device, chosen->port, chosen->gid.index, ""};
    if (criteria.gid) {
        out.why = formatted("GGML_RDMA_GID={} selects it", *criteria.gid);
    } else if (chosen->gid.gid == criteria.local_address) {
        out.why = "it is the connection's local address; RoCEv2 is preferred to RoCEv1";
    } else {
        out.why = "no GID has the connection's address; InfiniBand routes by LID, so its first GID is used";
    }
    return out;
}
#endif

Stage stage_of(const Error & error) {
    return error.code == Errc::timed_out ? Stage::silent : error.code == Errc::not_found ? Stage::no_address
                                                                                         : Stage::unreachable;
}

void set_failure(const net::Endpoint & endpoint, const Error & error, EndpointFacts & out) {
    out.failure = net::without_endpoint(endpoint, error.text);
    out.failure_code = error.code;
    out.advice = error.advice;
}

// Examines the server by a connection that only makes the handshake.
void examine_handshake(const net::Endpoint & endpoint, const Limits & limits, EndpointFacts & out) {
    const auto socket = net::connect_socket(endpoint, Clock::now() + limits.reply);
    if (!socket) {
        out.stage = stage_of(socket.error());
        set_failure(endpoint, socket.error(), out);
        return;
    }
    out.local_address = local_address(socket->get());
    out.is_local = out.local_address.empty() || is_loopback(out.local_address);
#ifdef GGML_RPC_RDMA
    if (endpoint.kind == net::Endpoint::Kind::tcp) {
        out.choice = choose_for(socket->get());
    }
#endif
    const auto reply = net::exchange_hello(socket->get(), 0, Clock::now() + limits.reply);
    if (!reply) {
        out.stage = Stage::no_handshake;
        set_failure(endpoint, {reply.error().code, reply.error().text, net::handshake_advice(reply.error().code)}, out);
        return;
    }
    const auto extension = load<wire::Extension>(reply->capabilities);
    out.is_caravan = extension.is_caravan();
    out.server_has_rdma = out.is_caravan && (extension.features & wire::feature_rdma) != 0;
    out.version = formatted("{}.{}.{}", reply->major, reply->minor, reply->patch);
    const bool fits = net::is_compatible(*reply);
    out.stage = fits ? Stage::reached : Stage::other_version;
    if (!fits) {
        set_failure(endpoint,
                    {Errc::unsupported,
                     formatted("it uses RPC protocol {}, this program {}.{}.{}", out.version, wire::stock_major,
                               wire::stock_minor, wire::stock_patch),
                     net::handshake_advice(Errc::unsupported)},
                    out);
    }
}

// Opens a session as a program would, and measures it if it uses RDMA.
void try_session(const net::Endpoint & endpoint, const Limits & limits, const OnWait & on_wait, EndpointFacts & out) {
    const net::Queueing queueing{.until = Clock::now() + limits.reply, .on_wait = [&](const wire::AdmissionReply & place) {
                                     const bool is_new = !out.queue;
                                     out.queue = place;
                                     if (is_new && on_wait && place.reason != wire::AdmissionReply::Reason::starting) {
                                         on_wait(place);
                                     }
                                 }};
    const bool may_be_rdma = out.choice && out.choice->found && out.server_has_rdma;
    const auto limit = limits.reply + (may_be_rdma ? upgrade_limit : seconds(0));
    auto opened = net::open_client(endpoint, true, Clock::now() + limit, queueing);
    if (!opened) {
        out.why_not_rdma = net::NoRdma(opened.error());
        out.why_not_rdma.text = net::without_endpoint(endpoint, opened.error().text);
        return;
    }
    out.queue.reset();
    out.transport = opened->transport->kind();
    out.why_not_rdma = opened->why_not_rdma;
    if (out.transport == net::TransportKind::rdma) {
        out.rdma = measure(std::move(opened->transport), limits);
    }
}

void measure_plain(const net::Endpoint & endpoint, const Limits & limits, EndpointFacts & out) {
    auto opened = net::open_client(endpoint, false, Clock::now() + limits.reply);
    if (opened) {
        out.plain = measure(std::move(opened->transport), limits);
    } else {
        out.plain = Measured{.failure = std::string(net::without_endpoint(endpoint, opened.error().text)),
                             .failure_code = opened.error().code};
    }
}

}  // namespace

EndpointFacts examine_endpoint(const net::Endpoint & endpoint, const Limits & limits, const OnWait & on_wait) {
    EndpointFacts out;
    out.endpoint = endpoint.text();
    examine_handshake(endpoint, limits, out);
    if (out.stage == Stage::reached) {
        try_session(endpoint, limits, on_wait, out);
        if (!out.queue) {
            measure_plain(endpoint, limits, out);
        }
    }
    return out;
}

}  // namespace caravan::doctor
