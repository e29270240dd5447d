#include "platform/posix/open_without_links.h"

#include <fcntl.h>
#ifdef __linux__
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#endif

namespace caravan::platform {

Descriptor open_without_links(const char * path, int flags) {
#ifdef __linux__
    open_how how{};
    how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_NO_SYMLINKS;
    const long fd = ::syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    // The syscall filter of some containers returns EPERM for unknown calls.
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) {
        return static_cast<Descriptor>(fd);
    }
#endif
    return ::open(path, flags | O_CLOEXEC | O_NOFOLLOW);
}

}  // namespace caravan::platform
