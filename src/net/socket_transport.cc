#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

#include "net/socket.h"
#include "net/transport.h"
#include "net/waker.h"

namespace caravan::net {
namespace {

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

std::unexpected<Error> failed(const char * what) {
    if (errno == ETIMEDOUT) {  // keep-alive
        return fail(Errc::timed_out, "the network has been silent for too long");
    }
    return fail(Errc::io, "{} failed: {}", what, errno_text(errno));
}

// The state of a TCP connection according to the operating system.
struct AckState {
    bool is_pending = false;       // the peer's machine owes an acknowledgement
    bool is_retransmitted = false;  // for data sent more than twice, or for a window probe
    milliseconds age{};             // time since the last acknowledgement
};

#ifdef __linux__
AckState ack_state_of(int socket) {
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
}
#else
AckState ack_state_of(int) { return {}; }
#endif

class SocketTransport final : public Transport {
public:
    SocketTransport(UniqueFd socket, bool is_unix, seconds patience)
        : socket_(std::move(socket)), is_unix_(is_unix), patience_(patience) {}

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
        return failed("send");
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
        return failed("receive");
    }

    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        const Result<Waker> & waker = this->waker();
        if (!waker) {
            return std::unexpected(waker.error());
        }
        std::array<pollfd, 2> fds{};
        fds[0].fd = socket_.get();
        fds[0].events = static_cast<short>((interest.read ? POLLIN : 0) | (interest.write ? POLLOUT : 0));
        fds[1].fd = waker->fd();
        fds[1].events = POLLIN;
        const TimePoint spin_end = spin.count() > 0 ? Clock::now() + spin : TimePoint::min();
        for (;;) {
            const bool spinning = spin.count() > 0 && Clock::now() < spin_end;
            const TimePoint until = std::min(deadline, next_check_.load());
            const int ready = ::poll(fds.data(), fds.size(), spinning ? 0 : poll_timeout_ms(until));
            if (ready > 0) {
                break;
            }
            if (ready < 0 && errno != EINTR) {
                return fail(Errc::io, "poll failed: {}", errno_text(errno));
            }
            const TimePoint now = Clock::now();
            if (now >= next_check_.load()) {
                if (auto alive = check_silence(now); !alive) {
                    return std::unexpected(alive.error());
                }
            }
            if (now >= deadline) {
                return false;
            }
            if (spinning) {
                ::sched_yield();
            }
        }
        if (fds[1].revents != 0) {
            waker->clear();
        }
        return true;
    }

    void wake() override {
        if (const Result<Waker> & waker = this->waker()) {
            waker->wake();
        }
    }

    void break_off() override { net::break_off(socket_.get()); }

    std::string_view kind() const override { return is_unix_ ? "unix" : "tcp"; }

private:
    // Created by the first wait or wake. A lifeline needs none.
    const Result<Waker> & waker() {
        std::call_once(waker_created_, [this] { waker_ = Waker::make(); });
        return waker_;
    }

    // Called at intervals while a wait sleeps. Fails if the network is silent. The silence counts from the first check that
    // finds an acknowledgement pending: on an idle connection the last one may be old.
    Result<> check_silence(TimePoint now) {
        next_check_ = now + patience_ / checks_per_patience;
        const AckState acks = ack_state_of(socket_.get());
        if (!acks.is_pending) {
            silent_since_ = no_deadline;
        } else if (now - acks.age > silent_since_.load() || silent_since_.load() == no_deadline) {
            silent_since_ = now;
        } else if (acks.is_retransmitted && now - silent_since_.load() >= patience_) {
            return fail(Errc::timed_out, "the network has been silent for {} s",
                        std::chrono::floor<seconds>(acks.age).count());
        }
        return {};
    }

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
    std::once_flag waker_created_;
    Result<Waker> waker_ = fail(Errc::io, "not created yet");
    bool is_unix_;
    static constexpr int checks_per_patience = 5;
    const milliseconds patience_;
    // Shared by all threads that wait. no_deadline: do not check; not silent.
    std::atomic<TimePoint> next_check_{patience_.count() > 0 ? TimePoint{} : no_deadline};
    std::atomic<TimePoint> silent_since_{no_deadline};
};

}  // namespace

Result<std::unique_ptr<Transport>> make_socket_transport(UniqueFd socket, seconds patience) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    ::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&address), &length);
    const bool is_unix = address.ss_family == AF_UNIX;
    if (is_unix) {
        patience = seconds(0);
    } else if (patience.count() > 0) {
        keep_alive(socket.get(), patience);
    }
    return std::make_unique<SocketTransport>(std::move(socket), is_unix, patience);
}

}  // namespace caravan::net
