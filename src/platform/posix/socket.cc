#include "platform/socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "platform/poll.h"

namespace caravan::platform {
namespace {

void set(int fd, int level, int name, int value) { ::setsockopt(fd, level, name, &value, sizeof value); }

const sockaddr * raw(const SocketAddress & address) { return static_cast<const sockaddr *>(address.data()); }

int system_family(SocketAddress::Family family) {
    switch (family) {
        case SocketAddress::Family::ipv4: return AF_INET;
        case SocketAddress::Family::ipv6: return AF_INET6;
        case SocketAddress::Family::local: return AF_UNIX;
        case SocketAddress::Family::other: break;
    }
    return AF_UNSPEC;
}

std::unexpected<Error> connect_failure(int error) {
    switch (error) {
        case ECONNREFUSED:
        case ENOENT: return fail(Errc::unavailable, "{}", errno_text(error));
        case EAGAIN:
        case ETIMEDOUT: return fail(Errc::timed_out, "{}", errno_text(error));
        case ECONNRESET: return fail(Errc::reset, "{}", errno_text(error));
        default: return fail(Errc::io, "{}", errno_text(error));
    }
}

void protect(int fd) {
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    set_non_blocking(fd, true);
}

}  // namespace

bool set_non_blocking(Descriptor fd, bool on) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ::fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0;
}

Result<UniqueFd> open_socket(SocketAddress::Family family) {
    UniqueFd fd(::socket(system_family(family), SOCK_STREAM, 0));
    if (!fd) {
        return fail(Errc::io, "cannot create a socket: {}", errno_text(errno));
    }
    protect(fd.get());
    return fd;
}

Result<> connect(SocketHandle socket, const SocketAddress & address, TimePoint deadline) {
    int outcome = 0;
    // connect() to a Unix socket whose queue is full returns EAGAIN, and poll() does not report when it has space.
    while ((outcome = ::connect(socket, raw(address), address.size())) != 0 && errno == EAGAIN && Clock::now() < deadline) {
        ::poll(nullptr, 0, 10);
    }
    if (outcome == 0) {
        return {};
    }
    if (errno != EINPROGRESS) {
        return connect_failure(errno);
    }
    Watch watch{socket, writable, 0};
    do {
        const auto ready = poll({&watch, 1}, poll_timeout_ms(deadline));
        if (!ready) {
            return std::unexpected(ready.error());
        }
    } while (watch.revents == 0 && Clock::now() < deadline);
    if (watch.revents == 0) {
        return fail(Errc::timed_out, "no reply in time");
    }
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0 ? Result<>() : connect_failure(error);
}

Result<> bind(SocketHandle socket, const SocketAddress & address) {
    if (::bind(socket, raw(address), address.size()) != 0) {
        return fail(errno == EADDRNOTAVAIL ? Errc::not_found : Errc::unavailable, "{}", errno_text(errno));
    }
    return {};
}

Result<> listen(SocketHandle socket) {
    return ::listen(socket, SOMAXCONN) == 0 ? Result<>() : fail(Errc::unavailable, "{}", errno_text(errno));
}

Result<UniqueFd> accept(SocketHandle listener) {
    UniqueFd fd(::accept(listener, nullptr, nullptr));
    if (!fd) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED) {
            return UniqueFd();
        }
        return fail(Errc::io, "cannot accept a connection: {}", errno_text(errno));
    }
    protect(fd.get());
    return fd;
}

void set_keep_alive(SocketHandle socket, [[maybe_unused]] const KeepAlive & values) {
    set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set(socket, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(values.idle.count()));
    set(socket, IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(values.interval.count()));
    set(socket, IPPROTO_TCP, TCP_KEEPCNT, values.tries);
#endif
}

void send_without_delay(SocketHandle socket) {
    set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
#ifdef SO_NOSIGPIPE
    set(socket, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

void allow_address_reuse(SocketHandle socket) { set(socket, SOL_SOCKET, SO_REUSEADDR, 1); }
void set_ipv6_only(SocketHandle socket, bool on) { set(socket, IPPROTO_IPV6, IPV6_V6ONLY, on ? 1 : 0); }

void reset_connection(SocketHandle socket) {
#ifdef __linux__
    const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
    if (::connect(socket, &nowhere, sizeof nowhere) == 0) {
        return;  // sent a reset
    }
#endif
    ::shutdown(socket, SHUT_RDWR);
}

void shut_down(SocketHandle socket) { ::shutdown(socket, SHUT_RDWR); }
void stop_sending(SocketHandle socket) { ::shutdown(socket, SHUT_WR); }

Result<UniqueFd> duplicate(Descriptor fd) {
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return copy ? Result<UniqueFd>(std::move(copy)) : fail(Errc::io, "{}", errno_text(errno));
}

std::optional<PeerProcess> peer_process([[maybe_unused]] SocketHandle socket) {
#ifdef SO_PEERCRED
    const auto local = local_address(socket);
    ucred peer{};
    socklen_t size = sizeof peer;
    if (local && local->family() == SocketAddress::Family::local &&
        ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
        return PeerProcess{peer.uid, peer.pid};
    }
#endif
    return std::nullopt;
}

AckState ack_state_of([[maybe_unused]] SocketHandle socket) {
#ifdef __linux__
    tcp_info info{};
    socklen_t size = sizeof info;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return {};
    }
    // Window probes query a peer whose buffer is full, at growing intervals. tcpi_retransmits does not count data
    // retransmitted to such a peer.
    const bool probes = info.tcpi_probes > 0;
    return {.is_pending = info.tcpi_unacked > 0 || probes,
            .is_retransmitted = info.tcpi_retransmits > 1 || probes,
            .age = milliseconds(info.tcpi_last_ack_recv)};
#else
    return {};
#endif
}

microseconds round_trip_of([[maybe_unused]] SocketHandle socket) {
#ifdef __linux__
    tcp_info info{};
    socklen_t size = sizeof info;
    return microseconds(::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_rtt : 0);
#else
    return {};
#endif
}

}  // namespace caravan::platform
