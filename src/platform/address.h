// IP addresses and addresses of sockets, as values. Threads: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// In network byte order. An IPv4 address is stored as IPv4-mapped IPv6 address: ::ffff:a.b.c.d.
using IpAddress = std::array<uint8_t, 16>;
inline constexpr int ipv4_prefix_bits = 96;  // of ::ffff:0:0/96

bool is_ipv4(const IpAddress & address);
bool is_loopback(const IpAddress & address);
bool is_link_local(const IpAddress & address);  // of IPv6: fe80::/10

// "10.0.0.2", "fe80::1" or "fe80::1%eth0", whose zone is ignored. std::nullopt for anything else.
std::optional<IpAddress> parse_ip(std::string_view text);
// "10.0.0.2" for an IPv4 address, else IPv6 notation.
std::string text_of(const IpAddress & address);

// A network interface's address, with the length of its network's prefix in bits, both as of IPv6.
struct InterfaceAddress {
    IpAddress address;
    int prefix;
};
// Those of the interfaces that are up, except loopback; empty if the system does not report them.
std::vector<InterfaceAddress> interface_addresses();

// The address of a socket: IP address and port, or the path of a Unix socket.
class SocketAddress {
public:
    enum class Family { ipv4, ipv6, local, other };

    // Errc::invalid_argument if the path is too long.
    static Result<SocketAddress> of_path(const std::string & path);

    Family family() const;
    // Numeric, with the zone of a link-local address; "" unless it is an IP address.
    std::string host() const;
    uint16_t port() const;
    void set_port(uint16_t port);
    std::optional<IpAddress> ip() const;
    bool is_loopback() const;  // also if it is local, or unknown

    // The system's form (sockaddr), for this module only.
    const void * data() const { return storage_.data(); }
    void * data() { return storage_.data(); }
    uint32_t size() const { return size_; }
    static constexpr uint32_t max_size = 128;
    void set_size(uint32_t size) { size_ = size; }

private:
    alignas(8) std::array<std::byte, max_size> storage_{};
    uint32_t size_ = 0;
};

// The addresses of a host. Blocks, without a deadline. Errc::not_found if there are none.
enum class Purpose { connect, listen };
Result<std::vector<SocketAddress>> resolve(const std::string & host, uint16_t port, Purpose purpose);

// std::nullopt if the socket has none, or is not connected.
std::optional<SocketAddress> local_address(SocketHandle socket);
std::optional<SocketAddress> peer_address(SocketHandle socket);

}  // namespace caravan::platform
