#include "net/exact_io.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "net/socket.h"

namespace caravan::net {
namespace {

std::unexpected<Error> too_late() { return fail(Errc::timed_out, "no reply in time"); }

// Interprets the result of send() or recv(): bytes moved, 0 after waiting for the socket, or an error.
Result<size_t> settle(ssize_t moved, int socket, short event, TimePoint deadline, const char * what) {
    if (moved > 0) {
        return static_cast<size_t>(moved);
    }
    if (moved == 0) {
        return fail(Errc::closed, "the peer closed the connection");
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        return fail(errno == ECONNRESET || errno == EPIPE ? Errc::reset : Errc::io, "{} failed: {}", what,
                    errno_text(errno));
    }
    pollfd waiting{socket, event, 0};
    if (::poll(&waiting, 1, poll_timeout_ms(deadline)) == 0) {
        return too_late();
    }
    return size_t{0};
}

}  // namespace

Result<> send_exact(int socket, ConstBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const auto sent = settle(::send(socket, bytes.data(), bytes.size(), send_flags), socket, POLLOUT, deadline, "send");
        if (!sent) {
            return std::unexpected(sent.error());
        }
        bytes = bytes.subspan(*sent);
        // A peer that moves one byte at a time never runs into the poll time-out.
        if (!bytes.empty() && Clock::now() >= deadline) {
            return too_late();
        }
    }
    return {};
}

Result<> receive_exact(int socket, MutableBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const auto got = settle(::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT), socket, POLLIN, deadline, "receive");
        if (!got) {
            return std::unexpected(got.error());
        }
        bytes = bytes.subspan(*got);
        if (!bytes.empty() && Clock::now() >= deadline) {
            return too_late();
        }
    }
    return {};
}

}  // namespace caravan::net
