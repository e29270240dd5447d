// Where a server is: host:port, [v6]:port, host, [v6], unix:/path.
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

    // In the form that parse_endpoint reads.
    std::string text() const;
    bool operator==(const Endpoint &) const = default;
};

// `text` without a leading "ENDPOINT: ", for messages that name the endpoint themselves.
std::string_view without_endpoint(const Endpoint & endpoint, std::string_view text);

// What rpc-server -H takes: an address or name, with or without brackets, or unix:/path. The result is what listen_on()
// takes. An error for a host with a port, which -p takes.
Result<std::string> parse_listen_host(std::string_view text);

// A bare IPv6 address ("::1") is taken as a host. Port 0 is an error: nothing listens there.
Result<Endpoint> parse_endpoint(std::string_view text);

}  // namespace caravan::net
