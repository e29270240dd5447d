#include "net/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/formatted.h"
#include "net/advice.h"

namespace caravan::net {
namespace {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo *)>;

Result<AddressList> resolve(const std::string & host, uint16_t port, bool passive) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    addrinfo * list = nullptr;
    const int code = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
    if (code != 0) {
        return fail(Errc::not_found, "cannot resolve the host name: {}",
                    code == EAI_SYSTEM ? errno_text(errno) : ::gai_strerror(code));
    }
    return AddressList(list, ::freeaddrinfo);
}

Result<sockaddr_un> unix_address(const std::string & path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return fail(Errc::invalid_argument, "unix:{}: the path is longer than {} bytes", path,
                    sizeof address.sun_path - 1);
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

Result<UniqueFd> new_socket(int family) {
    UniqueFd fd(::socket(family, SOCK_STREAM, 0));
    if (!fd) {
        return fail(Errc::io, "cannot create a socket: {}", errno_text(errno));
    }
    ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    set_non_blocking(fd.get(), true);
    return fd;
}

// Errc::unavailable: no server listens there. The others may be temporary.
Errc connect_failure(int error) {
    switch (error) {
        case ECONNREFUSED:
        case ENOENT: return Errc::unavailable;
        case EAGAIN:
        case ETIMEDOUT: return Errc::timed_out;
        case ECONNRESET: return Errc::reset;
        default: return Errc::io;
    }
}

Error cannot_connect(const Endpoint & endpoint, Errc code, const std::string & reason) {
    return {code, formatted("{}: cannot connect: {}", endpoint.text(), reason), connect_advice(endpoint, code)};
}

Result<> connect_one(int fd, const sockaddr * address, socklen_t length, const Endpoint & endpoint,
                     TimePoint deadline) {
    const auto failed = [&](Errc code, const std::string & reason) {
        return std::unexpected(cannot_connect(endpoint, code, reason));
    };
    int outcome = 0;
    // connect() to a Unix socket whose queue is full returns EAGAIN, and poll() does not report when it has space.
    while ((outcome = ::connect(fd, address, length)) != 0 && errno == EAGAIN && Clock::now() < deadline) {
        ::poll(nullptr, 0, 10);
    }
    if (outcome == 0) {
        return {};
    }
    if (errno != EINPROGRESS) {
        return failed(connect_failure(errno), errno_text(errno));
    }
    pollfd waiting{fd, POLLOUT, 0};
    int ready = 0;
    do {
        ready = ::poll(&waiting, 1, poll_timeout_ms(deadline));
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) {
        return failed(Errc::timed_out, "no reply in time");
    }
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        return failed(connect_failure(error), errno_text(error));
    }
    return {};
}

bool is_loopback(const sockaddr * address) {
    if (address->sa_family == AF_INET) {
        const auto * v4 = reinterpret_cast<const sockaddr_in *>(address);
        return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
    }
    if (address->sa_family == AF_INET6) {
        return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6 *>(address)->sin6_addr);
    }
    return true;
}

// The numeric host and port of a socket address.
std::pair<std::string, uint16_t> numeric(const sockaddr * address, socklen_t length) {
    char host[NI_MAXHOST] = "";
    char port[NI_MAXSERV] = "0";
    ::getnameinfo(address, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    return {host, static_cast<uint16_t>(std::atoi(port))};
}

Result<Listener> listen_unix(const std::string & path) {
    auto address = unix_address(path);
    if (!address) {
        return std::unexpected(address.error());
    }
    const auto * raw = reinterpret_cast<const sockaddr *>(&*address);
    auto fd = new_socket(AF_UNIX);
    if (!fd) {
        return std::unexpected(fd.error());
    }
    struct stat status{};
    const bool exists = ::lstat(path.c_str(), &status) == 0;
    if (exists && !S_ISSOCK(status.st_mode)) {
        return fail(Errc::unavailable, "cannot listen on unix:{}: the file exists and is not a socket; choose another path or "
                    "remove it", path);
    }
    if (exists) {
        auto probe = new_socket(AF_UNIX);
        if (probe && ::connect(probe->get(), raw, sizeof *address) != 0 && errno == ECONNREFUSED) {
            ::unlink(path.c_str());
        }
    }
    if (::bind(fd->get(), raw, sizeof *address) != 0 || ::listen(fd->get(), SOMAXCONN) != 0) {
        return fail(Errc::unavailable, "cannot listen on unix:{}: {}", path, errno_text(errno));
    }
    Listener listener;
    listener.fd = std::move(*fd);
    listener.endpoint.kind = Endpoint::Kind::unix_socket;
    listener.endpoint.path = path;
    return listener;
}

}  // namespace

bool set_non_blocking(int fd, bool on) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ::fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0;
}

namespace {

void set(int fd, int level, int name, int value) { ::setsockopt(fd, level, name, &value, sizeof value); }

void keep_alive(int fd, int idle_s, int interval_s, int tries) {
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, tries);
#endif
}

}  // namespace

void keep_alive(int fd, seconds silence) {
    const int third = std::max(1, static_cast<int>(silence.count()) / 3), tries = 5;
    keep_alive(fd, third, std::max(1, 2 * third / tries), tries);
}

void break_off(int fd) {
#ifdef __linux__
    const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
    if (::connect(fd, &nowhere, sizeof nowhere) == 0) {
        return;  // sent a reset
    }
#endif
    ::shutdown(fd, SHUT_RDWR);
}

void tune(int fd) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    keep_alive(fd, 15, 5, 6);
    // No TCP_USER_TIMEOUT: it would also end a connection whose peer computes for a long time with a full receive buffer.
#ifdef SO_NOSIGPIPE
    set(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

Result<UniqueFd> connect_socket(const Endpoint & endpoint, TimePoint deadline) {
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
        auto address = unix_address(endpoint.path);
        if (!address) {
            return std::unexpected(address.error());
        }
        auto fd = new_socket(AF_UNIX);
        if (!fd) {
            return fd;
        }
        const auto * raw = reinterpret_cast<const sockaddr *>(&*address);
        if (auto done = connect_one(fd->get(), raw, sizeof *address, endpoint, deadline); !done) {
            return std::unexpected(done.error());
        }
        return fd;
    }
    auto list = resolve(endpoint.host, endpoint.port, false);
    if (!list) {
        return std::unexpected(cannot_connect(endpoint, list.error().code, list.error().text));
    }
    auto last = cannot_connect(endpoint, Errc::not_found, "the host has no address");
    for (const addrinfo * info = list->get(); info != nullptr; info = info->ai_next) {
        auto fd = new_socket(info->ai_family);
        if (!fd) {
            last = fd.error();
            continue;
        }
        tune(fd->get());
        if (auto done = connect_one(fd->get(), info->ai_addr, info->ai_addrlen, endpoint, deadline); !done) {
            last = done.error();
            continue;
        }
        return fd;
    }
    return std::unexpected(last);
}

Result<std::vector<Endpoint>> addresses_of(const Endpoint & endpoint) {
    auto list = resolve(endpoint.host, endpoint.port, false);
    if (!list) {
        return std::unexpected(list.error());
    }
    std::vector<Endpoint> addresses;
    for (const addrinfo * info = list->get(); info != nullptr; info = info->ai_next) {
        Endpoint address = endpoint;
        address.host = numeric(info->ai_addr, info->ai_addrlen).first;
        addresses.push_back(std::move(address));
    }
    return addresses;
}

std::string peer_credentials(int fd) {
#ifdef SO_PEERCRED
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    ucred peer{};
    socklen_t peer_size = sizeof peer;
    if (::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) == 0 && address.ss_family == AF_UNIX &&
        ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) == 0) {
        return formatted(", uid {}, pid {}", peer.uid, peer.pid);
    }
#endif
    (void)fd;
    return "";
}

bool is_local_peer(int fd) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const auto * raw = reinterpret_cast<const sockaddr *>(&address);
    return ::getpeername(fd, reinterpret_cast<sockaddr *>(&address), &size) == 0 && is_loopback(raw);
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
    auto list = resolve(host, port, true);
    if (!list) {
        return fail(list.error().code, "cannot listen on {}: {}", host, list.error().text);
    }
    Error last{Errc::unavailable, formatted("\"{}\" has no address to listen on", host)};
    for (const addrinfo * info = list->get(); info != nullptr; info = info->ai_next) {
        auto fd = new_socket(info->ai_family);
        if (!fd) {
            last = fd.error();  // for example, a kernel without IPv6
            continue;
        }
        const int on = 1;
        ::setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (info->ai_family == AF_INET6) {
            // One listener for each address. "::" alone means all addresses of both families.
            const int v6_only = host == "::" ? 0 : 1;
            ::setsockopt(fd->get(), IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof v6_only);
        }
        if (port == 0 && !listeners.empty()) {
            const uint16_t port_in_use = htons(listeners.front().endpoint.port);
            if (info->ai_family == AF_INET) {
                reinterpret_cast<sockaddr_in *>(info->ai_addr)->sin_port = port_in_use;
            } else {
                reinterpret_cast<sockaddr_in6 *>(info->ai_addr)->sin6_port = port_in_use;
            }
        }
        if (::bind(fd->get(), info->ai_addr, info->ai_addrlen) != 0) {
            const int error = errno;
            last = Error{Errc::unavailable, formatted("cannot listen on {} port {}: {}", host, port, errno_text(error))};
            if (error == EADDRNOTAVAIL && info->ai_next != nullptr) {
                continue;  // "localhost" resolves to ::1 on a machine without an IPv6 address
            }
            if (!listeners.empty() && error == EADDRNOTAVAIL) {
                continue;
            }
            return std::unexpected(last);
        }
        sockaddr_storage bound{};
        socklen_t length = sizeof bound;
        ::getsockname(fd->get(), reinterpret_cast<sockaddr *>(&bound), &length);
        Listener listener;
        std::tie(listener.endpoint.host, listener.endpoint.port) = numeric(reinterpret_cast<sockaddr *>(&bound), length);
        listener.beyond_loopback = !is_loopback(reinterpret_cast<sockaddr *>(&bound));
        listener.fd = std::move(*fd);
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
        } else if (::listen(listener.fd.get(), SOMAXCONN) != 0) {
            return fail(Errc::unavailable, "cannot listen on {}: {}", listener.endpoint.text(), errno_text(errno));
        }
    }
    return {};
}

Result<std::vector<Listener>> listen_on(const std::string & host, uint16_t port) {
    auto listeners = bind_to(host, port);
    const auto opened = listeners ? start_listening(*listeners) : Result<>();
    return opened ? std::move(listeners) : std::unexpected(opened.error());
}

Result<UniqueFd> accept_socket(int listener) {
    UniqueFd fd(::accept(listener, nullptr, nullptr));
    if (!fd) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED) {
            return UniqueFd();
        }
        return fail(Errc::io, "cannot accept a connection: {}", errno_text(errno));
    }
    ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    set_non_blocking(fd.get(), true);
    tune(fd.get());
    return fd;
}

std::string peer_name(int fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (::getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length) != 0) {
        return "unknown";
    }
    if (address.ss_family == AF_UNIX) {
        return "local";
    }
    Endpoint endpoint;
    std::tie(endpoint.host, endpoint.port) = numeric(reinterpret_cast<sockaddr *>(&address), length);
    return endpoint.text();
}

std::string peer_address(int fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (::getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length) != 0) {
        return "unknown";
    }
    if (address.ss_family == AF_UNIX) {
#ifdef SO_PEERCRED
        ucred peer{};
        socklen_t size = sizeof peer;
        if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
            return formatted("uid:{}", peer.uid);
        }
#endif
        return "local";
    }
    if (address.ss_family == AF_INET6) {
        auto & v6 = reinterpret_cast<sockaddr_in6 &>(address).sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&v6)) {
            char text[INET_ADDRSTRLEN] = "";
            ::inet_ntop(AF_INET, v6.s6_addr + 12, text, sizeof text);
            return text;
        }
        if (!IN6_IS_ADDR_LINKLOCAL(&v6) && !IN6_IS_ADDR_LOOPBACK(&v6)) {
            std::fill(v6.s6_addr + 8, v6.s6_addr + 16, uint8_t{0});
        }
    }
    return numeric(reinterpret_cast<sockaddr *>(&address), length).first;
}

bool is_unix_socket(int fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    return ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) == 0 && address.ss_family == AF_UNIX;
}

}  // namespace caravan::net
