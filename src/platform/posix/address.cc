#include "platform/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace caravan::platform {
namespace {

static_assert(sizeof(sockaddr_storage) <= SocketAddress::max_size);

constexpr std::array<uint8_t, 12> ipv4_prefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

IpAddress mapped(const in_addr & v4) {
    IpAddress out{};
    std::ranges::copy(ipv4_prefix, out.begin());
    std::memcpy(out.data() + ipv4_prefix.size(), &v4, sizeof v4);
    return out;
}

const sockaddr * raw(const SocketAddress & address) { return static_cast<const sockaddr *>(address.data()); }

struct Numeric {
    std::string host;
    uint16_t port;
};

Numeric numeric(const SocketAddress & address) {
    char host[NI_MAXHOST] = "";
    char port[NI_MAXSERV] = "0";
    ::getnameinfo(raw(address), address.size(), host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    return {host, static_cast<uint16_t>(std::atoi(port))};
}

template <class Query>
std::optional<SocketAddress> query(Query system_call, SocketHandle socket) {
    SocketAddress address;
    socklen_t size = SocketAddress::max_size;
    if (system_call(socket, static_cast<sockaddr *>(address.data()), &size) != 0) {
        return std::nullopt;
    }
    address.set_size(size);
    return address;
}

}  // namespace

bool is_ipv4(const IpAddress & address) { return std::equal(ipv4_prefix.begin(), ipv4_prefix.end(), address.begin()); }

bool is_loopback(const IpAddress & address) {
    const IpAddress v6{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return address == v6 || (is_ipv4(address) && address[ipv4_prefix.size()] == 127);
}

bool is_link_local(const IpAddress & address) { return address[0] == 0xfe && (address[1] & 0xc0) == 0x80; }

std::optional<IpAddress> parse_ip(std::string_view text) {
    const std::string host(text.substr(0, text.find('%')));
    in_addr v4{};
    if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) {
        return mapped(v4);
    }
    IpAddress v6{};
    return ::inet_pton(AF_INET6, host.c_str(), v6.data()) == 1 ? std::optional(v6) : std::nullopt;
}

std::string text_of(const IpAddress & address) {
    char text[INET6_ADDRSTRLEN] = "";
    const bool v4 = is_ipv4(address);
    ::inet_ntop(v4 ? AF_INET : AF_INET6, address.data() + (v4 ? ipv4_prefix.size() : 0), text, sizeof text);
    return text;
}

Result<SocketAddress> SocketAddress::of_path(const std::string & path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return fail(Errc::invalid_argument, "unix:{}: the path is longer than {} bytes", path, sizeof address.sun_path - 1);
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    SocketAddress out;
    std::memcpy(out.data(), &address, sizeof address);
    out.set_size(sizeof address);
    return out;
}

SocketAddress::Family SocketAddress::family() const {
    switch (raw(*this)->sa_family) {
        case AF_INET: return Family::ipv4;
        case AF_INET6: return Family::ipv6;
        case AF_UNIX: return Family::local;
        default: return Family::other;
    }
}

std::string SocketAddress::host() const { return family() == Family::local ? "" : numeric(*this).host; }
uint16_t SocketAddress::port() const { return family() == Family::local ? uint16_t{0} : numeric(*this).port; }

void SocketAddress::set_port(uint16_t port) {
    if (family() == Family::ipv4) {
        static_cast<sockaddr_in *>(data())->sin_port = htons(port);
    } else if (family() == Family::ipv6) {
        static_cast<sockaddr_in6 *>(data())->sin6_port = htons(port);
    }
}

std::optional<IpAddress> SocketAddress::ip() const {
    if (family() == Family::ipv4) {
        return mapped(static_cast<const sockaddr_in *>(data())->sin_addr);
    }
    if (family() != Family::ipv6) {
        return std::nullopt;
    }
    IpAddress out;
    std::memcpy(out.data(), &static_cast<const sockaddr_in6 *>(data())->sin6_addr, out.size());
    return out;
}

bool SocketAddress::is_loopback() const {
    const auto address = ip();
    if (!address) {
        return true;
    }
    return family() == Family::ipv4 ? platform::is_loopback(*address) : *address == *parse_ip("::1");
}

Result<std::vector<SocketAddress>> resolve(const std::string & host, uint16_t port, Purpose purpose) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (purpose == Purpose::listen ? AI_PASSIVE : 0);
    addrinfo * list = nullptr;
    const int code = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
    if (code != 0) {
        return fail(Errc::not_found, "cannot resolve the host name: {}",
                    code == EAI_SYSTEM ? errno_text(errno) : ::gai_strerror(code));
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo *)> owner(list, ::freeaddrinfo);
    std::vector<SocketAddress> out;
    for (const addrinfo * info = list; info != nullptr; info = info->ai_next) {
        if (info->ai_addrlen <= SocketAddress::max_size) {
            SocketAddress & address = out.emplace_back();
            std::memcpy(address.data(), info->ai_addr, info->ai_addrlen);
            address.set_size(info->ai_addrlen);
        }
    }
    return out;
}

std::optional<SocketAddress> local_address(SocketHandle socket) { return query(::getsockname, socket); }
std::optional<SocketAddress> peer_address(SocketHandle socket) { return query(::getpeername, socket); }

}  // namespace caravan::platform
