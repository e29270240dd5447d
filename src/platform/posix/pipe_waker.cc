#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "platform/waker.h"

namespace caravan::platform {

Result<Waker> Waker::make() {
    int ends[2];
    if (::pipe(ends) != 0) {
        return fail(Errc::io, "cannot create a pipe: {}", errno_text(errno));
    }
    for (const int fd : ends) {
        ::fcntl(fd, F_SETFD, FD_CLOEXEC);
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return Waker(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

void Waker::wake() const {
    const char byte = 1;
    [[maybe_unused]] const ssize_t ignored = ::write(write_end_.get(), &byte, 1);
}

void Waker::clear() const {
    char drained[64];
    while (::read(read_end_.get(), drained, sizeof drained) > 0) {
    }
}

}  // namespace caravan::platform
