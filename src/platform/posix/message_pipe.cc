#include "platform/message_pipe.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "platform/socket.h"

namespace caravan::platform {

Result<MessagePipe> make_message_pipe(int in_flight) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) {
        return fail(Errc::io, "cannot make a socket pair: {}", errno_text(errno));
    }
    MessagePipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
    ::fcntl(pipe.ours.get(), F_SETFD, FD_CLOEXEC);
    set_non_blocking(pipe.ours.get(), true);
    if (::setsockopt(pipe.ours.get(), SOL_SOCKET, SO_SNDBUF, &in_flight, sizeof in_flight) != 0) {
        return fail(Errc::io, "cannot bound a socket pair: {}", errno_text(errno));
    }
#ifdef __linux__
    // Messages to `ours` with handles fail to be sent: to close those may take long (a lingering socket). Linux 6.16 and later.
    constexpr int pass_rights = 83;  // SO_PASSRIGHTS
    const int no = 0;
    (void)::setsockopt(pipe.ours.get(), SOL_SOCKET, pass_rights, &no, sizeof no);
#endif
    return pipe;
}

Result<> send_message(SocketHandle pipe, ConstBytes message, SocketHandle attached) {
    iovec part{const_cast<std::byte *>(message.data()), message.size()};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (attached >= 0) {
        header.msg_control = space;
        header.msg_controllen = sizeof space;
        cmsghdr * rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(rights), &attached, sizeof attached);
    }
    ssize_t sent = 0;
    do {
#ifdef MSG_NOSIGNAL
        sent = ::sendmsg(pipe, &header, MSG_NOSIGNAL);
#else
        sent = ::sendmsg(pipe, &header, 0);
#endif
    } while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(message.size()) ? Result<>() : fail(Errc::unavailable, "{}", errno_text(errno));
}

Result<std::optional<ReceivedMessage>> receive_message(SocketHandle pipe, MutableBytes to, bool accepts_handle) {
    iovec part{to.data(), to.size()};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (accepts_handle) {
        header.msg_control = space;
        header.msg_controllen = CMSG_LEN(sizeof(int));  // CMSG_SPACE would fit a second one
    }
    ssize_t got = 0;
    do {
        got = ::recvmsg(pipe, &header, MSG_CMSG_CLOEXEC);  // the kernel closes descriptors that do not fit
        // ECONNRESET: the other process exited with unread messages. Its own last messages follow.
    } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return std::nullopt;
    }
    if (got <= 0) {
        return fail(Errc::closed, "the other process has ended");
    }
    ReceivedMessage received{static_cast<size_t>(got), UniqueFd()};
    for (cmsghdr * control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
        if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
            int descriptor = -1;
            std::memcpy(&descriptor, CMSG_DATA(control), sizeof descriptor);
            received.attached.reset(descriptor);
        }
    }
    return received;
}

}  // namespace caravan::platform
