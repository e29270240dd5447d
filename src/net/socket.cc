#include "net/socket.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/formatted.h"
#include "net/advice.h"
#include "tunables/net.h"

namespace caravan::net {
namespace {

using platform::SocketAddress;

Error cannot_connect(const Endpoint & endpoint, Errc code, const std::string & reason) {
    return {code, formatted("{}: cannot connect: {}", endpoint.text(), reason), connect_advice(endpoint, code)};
}

// A connected socket to one address of the endpoint.
Result<UniqueFd> connect_to(const SocketAddress & address, const Endpoint & endpoint, TimePoint deadline) {
    auto socket = platform::open_socket(address.family());
    if (!socket) {
        return socket;
    }
    if (address.family() != SocketAddress::Family::local) {
        tune(socket->get());
    }
    if (auto done = platform::connect(socket->get(), address, deadline); !done) {
        return std::unexpected(cannot_connect(endpoint, done.error().code, done.error().text));
    }
    return socket;
}

Result<Listener> listen_unix(const std::string & path) {
    const auto address = SocketAddress::of_path(path);
    if (!address) {
        return std::unexpected(address.error());
    }
    auto socket = platform::open_socket(address->family());
    if (!socket) {
        return std::unexpected(socket.error());
    }
    std::error_code unknown;
    const auto found = std::filesystem::symlink_status(path, unknown).type();
    const bool exists = found != std::filesystem::file_type::none && found != std::filesystem::file_type::not_found;
    if (exists && found != std::filesystem::file_type::socket) {
        return fail(Errc::unavailable, "cannot listen on unix:{}: the file exists and is not a socket; choose another path or "
                    "remove it", path);
    }
    if (exists) {
        const auto probe = platform::open_socket(address->family());
        const auto connected = probe ? platform::connect(probe->get(), *address, Clock::now()) : Result<>();
        if (!connected && connected.error().code == Errc::unavailable) {
            std::filesystem::remove(path, unknown);
        }
    }
    auto done = platform::bind(socket->get(), *address);
    done = done ? platform::listen(socket->get()) : done;
    if (!done) {
        return fail(Errc::unavailable, "cannot listen on unix:{}: {}", path, done.error().text);
    }
    Listener listener;
    listener.fd = std::move(*socket);
    listener.endpoint.kind = Endpoint::Kind::unix_socket;
    listener.endpoint.path = path;
    return listener;
}

}  // namespace

void keep_alive(SocketHandle socket, seconds silence) {
    const int third = std::max(1, static_cast<int>(silence.count()) / 3), tries = tunable::session_keep_alive_tries;
    platform::set_keep_alive(socket, {seconds(third), seconds(std::max(1, 2 * third / tries)), tries});
}

void tune(SocketHandle socket) {
    platform::send_without_delay(socket);
    platform::set_keep_alive(socket, {tunable::keep_alive_idle, tunable::keep_alive_interval, tunable::keep_alive_tries});
    // No TCP_USER_TIMEOUT: it would also end a connection whose peer computes for a long time with a full receive buffer.
}

Result<UniqueFd> connect_socket(const Endpoint & endpoint, TimePoint deadline) {
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
        const auto address = SocketAddress::of_path(endpoint.path);
        return address ? connect_to(*address, endpoint, deadline) : std::unexpected(address.error());
    }
    const auto addresses = platform::resolve(endpoint.host, endpoint.port, platform::Purpose::connect);
    if (!addresses) {
        return std::unexpected(cannot_connect(endpoint, addresses.error().code, addresses.error().text));
    }
    auto last = cannot_connect(endpoint, Errc::not_found, "the host has no address");
    for (const SocketAddress & address : *addresses) {
        auto socket = connect_to(address, endpoint, deadline);
        if (socket) {
            return socket;
        }
        last = socket.error();
    }
    return std::unexpected(last);
}

Result<std::vector<Endpoint>> addresses_of(const Endpoint & endpoint) {
    const auto found = platform::resolve(endpoint.host, endpoint.port, platform::Purpose::connect);
    if (!found) {
        return std::unexpected(found.error());
    }
    std::vector<Endpoint> addresses;
    for (const SocketAddress & each : *found) {
        Endpoint address = endpoint;
        address.host = each.host();
        addresses.push_back(std::move(address));
    }
    return addresses;
}

std::string peer_credentials(SocketHandle socket) {
    const auto peer = platform::peer_process(socket);
    return peer ? formatted(", uid {}, pid {}", peer->user, peer->pid) : "";
}

bool is_local_peer(SocketHandle socket) {
    const auto address = platform::peer_address(socket);
    return address && address->is_loopback();
}

Result<std::vector<Listener>> bind_to(const std::string & host, uint16_t port) {
    std::vector<Listener> listeners;
    if (host.starts_with("unix:")) {
        Listener listener;
        listener.endpoint.kind = Endpoint::Kind::unix_socket;
        listener.endpoint.path = host.substr(5);
        listeners.push_back(std::move(listener));
        return listeners;
    }
    auto addresses = platform::resolve(host, port, platform::Purpose::listen);
    if (!addresses) {
        return fail(addresses.error().code, "cannot listen on {}: {}", host, addresses.error().text);
    }
    Error last{Errc::unavailable, formatted("\"{}\" has no address to listen on", host)};
    for (SocketAddress & address : *addresses) {
        auto socket = platform::open_socket(address.family());
        if (!socket) {
            last = socket.error();  // for example, a kernel without IPv6
            continue;
        }
        platform::allow_address_reuse(socket->get());
        if (address.family() == SocketAddress::Family::ipv6) {
            // One listener for each address. "::" alone means all addresses of both families.
            platform::set_ipv6_only(socket->get(), host != "::");
        }
        if (port == 0 && !listeners.empty()) {
            address.set_port(listeners.front().endpoint.port);
        }
        if (auto bound = platform::bind(socket->get(), address); !bound) {
            last = Error{Errc::unavailable, formatted("cannot listen on {} port {}: {}", host, port, bound.error().text)};
            const bool is_last = &address == &addresses->back();
            if (bound.error().code == Errc::not_found && (!is_last || !listeners.empty())) {
                continue;  // "localhost" resolves to ::1 on a machine without an IPv6 address
            }
            return std::unexpected(last);
        }
        const auto bound = platform::local_address(socket->get()).value_or(address);
        Listener listener;
        listener.endpoint.host = bound.host();
        listener.endpoint.port = bound.port();
        listener.beyond_loopback = !bound.is_loopback();
        listener.fd = std::move(*socket);
        listeners.push_back(std::move(listener));
    }
    if (listeners.empty()) {
        return std::unexpected(last);
    }
    return listeners;
}

Result<> start_listening(std::vector<Listener> & listeners) {
    for (Listener & listener : listeners) {
        if (listener.endpoint.kind == Endpoint::Kind::unix_socket) {
            auto opened = listen_unix(listener.endpoint.path);
            if (!opened) {
                return std::unexpected(opened.error());
            }
            listener = std::move(*opened);
        } else if (auto opened = platform::listen(listener.fd.get()); !opened) {
            return fail(Errc::unavailable, "cannot listen on {}: {}", listener.endpoint.text(), opened.error().text);
        }
    }
    return {};
}

Result<std::vector<Listener>> listen_on(const std::string & host, uint16_t port) {
    auto listeners = bind_to(host, port);
    const auto opened = listeners ? start_listening(*listeners) : Result<>();
    return opened ? std::move(listeners) : std::unexpected(opened.error());
}

Result<UniqueFd> accept_socket(SocketHandle listener) {
    auto socket = platform::accept(listener);
    if (socket && *socket) {
        tune(socket->get());
    }
    return socket;
}

std::string peer_name(SocketHandle socket) {
    const auto address = platform::peer_address(socket);
    if (!address) {
        return "unknown";
    }
    if (address->family() == SocketAddress::Family::local) {
        return "local";
    }
    Endpoint endpoint;
    endpoint.host = address->host();
    endpoint.port = address->port();
    return endpoint.text();
}

std::string peer_address(SocketHandle socket) {
    const auto address = platform::peer_address(socket);
    if (!address) {
        return "unknown";
    }
    if (address->family() == SocketAddress::Family::local) {
        const auto peer = platform::peer_process(socket);
        return peer ? formatted("uid:{}", peer->user) : "local";
    }
    auto ip = address->ip();
    if (ip && platform::is_ipv4(*ip)) {
        return platform::text_of(*ip);
    }
    if (!ip || platform::is_link_local(*ip) || platform::is_loopback(*ip)) {
        return address->host();
    }
    std::fill(ip->begin() + 8, ip->end(), uint8_t{0});
    return platform::text_of(*ip);
}

bool is_unix_socket(SocketHandle socket) {
    const auto address = platform::local_address(socket);
    return address && address->family() == SocketAddress::Family::local;
}

}  // namespace caravan::net
