#include "platform/machine.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace caravan::platform {

std::string host_name() {
    utsname system{};
    ::uname(&system);
    return system.nodename;
}

std::string kernel_version() {
    utsname system{};
    ::uname(&system);
    return std::string(system.sysname) + " " + system.release;
}

std::optional<uint64_t> locked_memory_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return std::nullopt;
    }
    return limit.rlim_cur;
}

bool is_superuser() { return ::geteuid() == 0; }

}  // namespace caravan::platform
