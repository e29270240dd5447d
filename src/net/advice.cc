#include "net/advice.h"

namespace caravan::net {
namespace {

bool is_loopback(const std::string & host) {
    return host == "localhost" || host == "::1" || host.starts_with("127.");
}

std::string refused_advice(const Endpoint & endpoint) {
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
        return formatted("check that rpc-server runs on this machine with -H unix:{}", endpoint.path);
    }
    if (is_loopback(endpoint.host)) {
        return formatted("check that rpc-server runs on this machine with -p {}", endpoint.port);
    }
    return formatted("check that rpc-server runs there with -H {} -p {} (without -H it listens on 127.0.0.1 only); "
                     "\"ss -ltn\" there lists the open ports",
                     endpoint.host.contains(':') ? "::" : "0.0.0.0", endpoint.port);
}

}  // namespace

std::string connect_advice(const Endpoint & endpoint, Errc code) {
    switch (code) {
        case Errc::not_found: return "correct the name (\"getent hosts NAME\" shows its addresses), or use the address";
        case Errc::unavailable: return refused_advice(endpoint);
        case Errc::timed_out:
            return formatted("check that the machine is up (ping {}) and that no firewall drops connections to port {}",
                             endpoint.host, endpoint.port);
        case Errc::reset: return "check that no firewall or proxy on the network path cuts off connections to this port";
        case Errc::io:
            return endpoint.kind == Endpoint::Kind::unix_socket
                       ? formatted("check that this user may write to {}", endpoint.path)
                       : formatted("check the address, and this machine's interfaces and routes (\"ip route get {}\")",
                                   endpoint.host);
        default: return "";
    }
}

std::string full_advice() {
    return "end a program that uses the server, restart the server with a larger --max-sessions or --max-per-address, or wait "
           "longer (GGML_RPC_TIMEOUT_S)";
}

std::string only_rdma_advice(const Endpoint & endpoint) {
    return formatted("\"rpc-doctor {}\" shows what RDMA lacks; without GGML_RPC_TRANSPORT=rdma the server also accepts TCP",
                     endpoint.text());
}

std::string handshake_advice(Errc code) {
    switch (code) {
        case Errc::timed_out:
            return "a stock server serves one client at a time: end its other client; a stopped rpc-server does not answer "
                   "either: restart it; or another program listens on this port";
        case Errc::closed:
        case Errc::reset:
            return "check the server's log for the reason; if it has none, another program listens on this port "
                   "(\"ss -ltnp\" there names it), or a proxy without a server behind it";
        case Errc::unsupported: return "run matching versions of ggml on both sides";
        case Errc::protocol: return "another program listens on this port: correct the port";
        default: return "";
    }
}

}  // namespace caravan::net
