#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>

#include "net/transport.h"
#include "net/waker.h"

namespace caravan::net {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int send_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
constexpr int send_flags = MSG_DONTWAIT;
#endif

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

class SocketTransport final : public Transport {
public:
    SocketTransport(UniqueFd socket, Waker waker, bool is_unix)
        : socket_(std::move(socket)), waker_(std::move(waker)), is_unix_(is_unix) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        std::array<iovec, max_parts> vectors;
        const msghdr message = describe(parts, vectors);
        const ssize_t sent = ::sendmsg(socket_.get(), &message, send_flags);
        if (sent >= 0) {
            return static_cast<size_t>(sent);
        }
        if (would_block(errno)) {
            return size_t{0};
        }
        if (errno == EPIPE || errno == ECONNRESET) {
            return fail(Errc::reset, "the peer closed the connection");
        }
        return fail(Errc::io, "send failed: {}", errno_text(errno));
    }

    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        std::array<iovec, max_parts> vectors;
        msghdr message = describe(parts, vectors);
        const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
        if (got > 0) {
            return static_cast<size_t>(got);
        }
        if (got == 0) {
            return fail(Errc::closed, "the peer closed the connection");
        }
        if (would_block(errno)) {
            return size_t{0};
        }
        if (errno == ECONNRESET) {
            return fail(Errc::reset, "the peer reset the connection");
        }
        return fail(Errc::io, "receive failed: {}", errno_text(errno));
    }

    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        std::array<pollfd, 2> fds{};
        fds[0].fd = socket_.get();
        fds[0].events = static_cast<short>((interest.read ? POLLIN : 0) | (interest.write ? POLLOUT : 0));
        fds[1].fd = waker_.fd();
        fds[1].events = POLLIN;
        const TimePoint spin_end = spin.count() > 0 ? Clock::now() + spin : TimePoint::min();
        for (;;) {
            const bool spinning = spin.count() > 0 && Clock::now() < spin_end;
            const int ready = ::poll(fds.data(), fds.size(), spinning ? 0 : poll_timeout_ms(deadline));
            if (ready > 0) {
                break;
            }
            if (ready < 0 && errno != EINTR) {
                return fail(Errc::io, "poll failed: {}", errno_text(errno));
            }
            if (Clock::now() >= deadline) {
                return false;
            }
            if (spinning) {
                ::sched_yield();
            }
        }
        if (fds[1].revents != 0) {
            waker_.clear();
        }
        return true;
    }

    void wake() override { waker_.wake(); }

    std::string_view kind() const override { return is_unix_ ? "unix" : "tcp"; }

private:
    template <class Bytes>
    static msghdr describe(std::span<const Bytes> parts, std::array<iovec, max_parts> & vectors) {
        const size_t count = std::min(parts.size(), vectors.size());
        for (size_t i = 0; i < count; ++i) {
            vectors[i].iov_base = const_cast<void *>(static_cast<const void *>(parts[i].data()));
            vectors[i].iov_len = parts[i].size();
        }
        msghdr message{};
        message.msg_iov = vectors.data();
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
        return message;
    }

    UniqueFd socket_;
    Waker waker_;
    bool is_unix_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_socket_transport(UniqueFd socket) {
    auto waker = Waker::make();
    if (!waker) {
        return std::unexpected(waker.error());
    }
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    ::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&address), &length);
    return std::make_unique<SocketTransport>(std::move(socket), std::move(*waker), address.ss_family == AF_UNIX);
}

}  // namespace caravan::net
