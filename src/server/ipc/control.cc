#include "server/ipc/control.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/socket.h"

namespace caravan::server {

void ControlMessage::set_text(std::string_view from) {
    const size_t size = std::min(from.size(), sizeof text - 1);
    std::memcpy(text, from.data(), size);
    text[size] = '\0';
}

Result<ControlChannel> make_control_channel() {
    constexpr int in_flight = 12 * 1024;  // bytes, doubled by the kernel; a message takes about 1300
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) {
        return fail(Errc::io, "cannot make a socket pair: {}", errno_text(errno));
    }
    ControlChannel line{UniqueFd(ends[0]), UniqueFd(ends[1])};
    ::fcntl(line.supervisor.get(), F_SETFD, FD_CLOEXEC);
    net::set_non_blocking(line.supervisor.get(), true);
    if (::setsockopt(line.supervisor.get(), SOL_SOCKET, SO_SNDBUF, &in_flight, sizeof in_flight) != 0) {
        return fail(Errc::io, "cannot bound a socket pair: {}", errno_text(errno));
    }
    return line;
}

bool send_control(int fd, const ControlMessage & message, int attached) {
    iovec part{const_cast<ControlMessage *>(&message), sizeof message};
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
        sent = ::sendmsg(fd, &header, MSG_NOSIGNAL);
#else
        sent = ::sendmsg(fd, &header, 0);
#endif
    } while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(sizeof message);
}

Result<std::optional<ReceivedControl>> receive_control(int fd, Descriptors descriptors) {
    ReceivedControl received;
    iovec part{&received.message, sizeof received.message};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (descriptors == Descriptors::accept_one) {
        header.msg_control = space;
        header.msg_controllen = CMSG_LEN(sizeof(int));  // CMSG_SPACE would fit a second one
    }
    ssize_t got = 0;
    do {
        got = ::recvmsg(fd, &header, MSG_CMSG_CLOEXEC);  // the kernel closes descriptors that do not fit
        // ECONNRESET: the other process exited with unread messages. Its own last messages follow.
    } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return std::nullopt;
    }
    if (got <= 0) {
        return fail(Errc::closed, "the other process has ended");
    }
    for (cmsghdr * control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
        if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
            int descriptor = -1;
            std::memcpy(&descriptor, CMSG_DATA(control), sizeof descriptor);
            received.attached.reset(descriptor);
        }
    }
    // SOCK_SEQPACKET preserves message boundaries.
    if (got != static_cast<ssize_t>(sizeof received.message)) {
        return fail(Errc::protocol, "a torn message between server and worker");
    }
    received.message.text[sizeof received.message.text - 1] = '\0';
    return received;
}

}  // namespace caravan::server
