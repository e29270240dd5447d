// The data path of sockets.

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "platform/socket.h"

namespace caravan::platform {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int send_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
constexpr int send_flags = MSG_DONTWAIT;  // send_without_delay() has disabled SIGPIPE
#endif

Moved::Status status_of(int error) {
    switch (error) {
        case EAGAIN:
#if EAGAIN != EWOULDBLOCK
        case EWOULDBLOCK:
#endif
        case EINTR: return Moved::Status::would_block;
        case EPIPE:
        case ECONNRESET: return Moved::Status::reset;
        case ETIMEDOUT: return Moved::Status::silent;
        default: return Moved::Status::failed;
    }
}

Moved outcome(ssize_t moved) {
    if (moved > 0) {
        return {static_cast<size_t>(moved), Moved::Status::some, 0};
    }
    return moved == 0 ? Moved{0, Moved::Status::closed, 0} : Moved{0, status_of(errno), errno};
}

template <class Bytes>
msghdr describe(std::span<const Bytes> parts, std::array<iovec, max_io_parts> & vectors) {
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

}  // namespace

std::string Moved::why() const { return errno_text(code); }

Moved send_parts(SocketHandle socket, std::span<const ConstBytes> parts) {
    std::array<iovec, max_io_parts> vectors;
    const msghdr message = describe(parts, vectors);
    return outcome(::sendmsg(socket, &message, send_flags));
}

Moved receive_parts(SocketHandle socket, std::span<const MutableBytes> parts) {
    std::array<iovec, max_io_parts> vectors;
    msghdr message = describe(parts, vectors);
    return outcome(::recvmsg(socket, &message, MSG_DONTWAIT));
}

Moved send_bytes(SocketHandle socket, ConstBytes bytes) {
    return outcome(::send(socket, bytes.data(), bytes.size(), send_flags));
}

Moved receive_bytes(SocketHandle socket, MutableBytes bytes) {
    return outcome(::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT));
}

Moved peek(SocketHandle socket) {
    char byte = 0;
    return outcome(::recv(socket, &byte, 1, MSG_DONTWAIT | MSG_PEEK));
}

}  // namespace caravan::platform
