#include "net/waker.h"

#include <fcntl.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace caravan::net {

#ifdef __linux__
Result<Waker> Waker::make() {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event) {
        return fail(Errc::io, "cannot create an eventfd: {}", errno_text(errno));
    }
    return Waker(std::move(event), UniqueFd());
}

void Waker::wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t ignored = ::write(read_end_.get(), &one, sizeof one);
}
#else
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
#endif

void Waker::clear() const {
    char drained[64];
    while (::read(read_end_.get(), drained, sizeof drained) > 0) {
    }
}

}  // namespace caravan::net
