// The address of a server: host:port, [v6]:port, host, [v6] or unix:/path.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace caravan::net {

inline constexpr uint16_t default_port = 50052;

struct Endpoint {
    enum class Kind { tcp, unix_socket };
    Kind kind = Kind::tcp;
    std::string host;  // tcp: a name, or an IPv4 or IPv6 address without brackets
    uint16_t port = default_port;
    std::string path;  // unix_socket

    // The form that parse_endpoint() accepts.
    std::string text() const;
    bool operator==(const Endpoint &) const = default;
};

// Strips a leading "ENDPOINT: " from `text`, for messages that already name the endpoint.
std::string_view without_endpoint(const Endpoint & endpoint, std::string_view text);

// Parses the argument of rpc-server -H: an address or name, with or without brackets, or unix:/path. The result is an
// argument for listen_on(). A host with a port is an error: the port is the argument of -p.
Result<std::string> parse_listen_host(std::string_view text);

// Spaces around it are ignored. A bare IPv6 address ("::1") is a host without a port. Port 0 is an error: no server listens on
// it.
Result<Endpoint> parse_endpoint(std::string_view text);

}  // namespace caravan::net
