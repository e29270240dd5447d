#include "platform/waker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace caravan::platform {

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

void Waker::clear() const {
    uint64_t count = 0;
    while (::read(read_end_.get(), &count, sizeof count) > 0) {
    }
}

}  // namespace caravan::platform
