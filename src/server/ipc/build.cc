#include "server/ipc/build.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "net/faults.h"
#include "net/hello.h"

namespace caravan::server {

std::string build_text() {
    return formatted("{}{}{}", CARAVAN_BUILD, net::built_with_rdma ? "-rdma" : "", net::injects_faults ? "-faults" : "");
}

bool send_build(int fd) {
    const std::string text = build_text();
    return ::send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

Result<std::optional<std::string>> receive_build(int fd) {
    std::array<char, 128> text;
    ssize_t got = 0;
    do {
        got = ::recv(fd, text.data(), text.size(), 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return std::nullopt;
    }
    if (got <= 0) {
        return fail(Errc::closed, "the other process has ended");
    }
    return std::string(text.data(), static_cast<size_t>(got));
}

}  // namespace caravan::server
