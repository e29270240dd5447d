#include "net/exact_io.h"

#include "platform/poll.h"
#include "platform/socket.h"

namespace caravan::net {
namespace {

using platform::Moved;

std::unexpected<Error> too_late() { return fail(Errc::timed_out, "no reply in time"); }

// Interprets an attempt to send or receive: bytes moved, 0 after waiting for the socket, or an error.
Result<size_t> settle(const Moved & moved, SocketHandle socket, short event, TimePoint deadline, const char * what) {
    switch (moved.status) {
        case Moved::Status::some: return moved.bytes;
        case Moved::Status::closed: return fail(Errc::closed, "the peer closed the connection");
        case Moved::Status::would_block: break;
        default:
            return fail(moved.status == Moved::Status::reset ? Errc::reset : Errc::io, "{} failed: {}", what, moved.why());
    }
    platform::Watch watch{socket, event, 0};
    const auto ready = platform::poll({&watch, 1}, poll_timeout_ms(deadline));
    if (!ready) {
        return std::unexpected(ready.error());
    }
    if (*ready == 0 && Clock::now() >= deadline) {
        return too_late();
    }
    return size_t{0};
}

}  // namespace

Result<> send_exact(SocketHandle socket, ConstBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const auto sent = settle(platform::send_bytes(socket, bytes), socket, platform::writable, deadline, "send");
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

Result<> receive_exact(SocketHandle socket, MutableBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const auto got = settle(platform::receive_bytes(socket, bytes), socket, platform::readable, deadline, "receive");
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
