#include "platform/capabilities.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/formatted.h"

namespace caravan::platform {
namespace {

constexpr long faccessat2 = 439;  // on all architectures

bool set_capabilities(uint32_t effective, uint32_t permitted) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    const std::array<__user_cap_data_struct, 2> data{{{effective, permitted, 0}, {0, 0, 0}}};
    return ::syscall(SYS_capset, &header, data.data()) == 0;
}

// A capability does not help with other errors (missing file, read-only file system). Without the system call (ENOSYS; EPERM in
// some containers) the permission is unknown, and counts as missing.
bool is_missing_permission(const std::filesystem::path & path, int access) {
    return ::syscall(faccessat2, AT_FDCWD, path.c_str(), access, AT_EACCESS) != 0 &&
           (errno == EACCES || errno == ENOSYS || errno == EPERM);
}

}  // namespace

std::string drop_capabilities(const FileRules & files) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> now{};
    if (::syscall(SYS_capget, &header, now.data()) != 0) {
        return formatted("unknown ({})", errno_text(errno));
    }
    if (now[0].permitted == 0 && now[1].permitted == 0) {
        return "none";
    }
    const rlimit any{RLIM_INFINITY, RLIM_INFINITY};
    // A container may lack the privilege for it. Only RDMA needs it.
    const bool may_lock = ::setrlimit(RLIMIT_MEMLOCK, &any) == 0 || ::access("/dev/infiniband", F_OK) != 0;
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    constexpr uint32_t read = 1u << CAP_DAC_READ_SEARCH, write = 1u << CAP_DAC_OVERRIDE, lock = 1u << CAP_IPC_LOCK;
    uint32_t kept = now[0].permitted & (read | write | lock);
    // Drops the effective set first, to test which paths are inaccessible without capabilities.
    if (!set_capabilities(0, kept)) {
        return formatted("all: cannot drop them: {}", errno_text(errno));
    }
    const auto is_missing = [](int access) {
        return [access](const std::filesystem::path & path) { return is_missing_permission(path, access); };
    };
    const bool needs_write = std::ranges::any_of(files.writable, is_missing(R_OK | W_OK | X_OK)) ||
                             std::ranges::any_of(files.receiving, is_missing(R_OK | W_OK | X_OK));
    const bool needs_read = std::ranges::any_of(files.readable_files, is_missing(R_OK)) ||
                            std::ranges::any_of(files.readable, is_missing(R_OK));
    kept &= (needs_write ? write : 0) | (needs_read ? read : 0) | (may_lock ? 0 : lock);
    set_capabilities(kept, kept);
    std::string text;
    for (const auto & [capability, why] : {std::pair{write, "DAC_OVERRIDE for a cache of another user"},
                                           std::pair{read, "DAC_READ_SEARCH for model files of other users"},
                                           std::pair{lock, "IPC_LOCK for RDMA, as memory to lock is limited"}}) {
        if ((kept & capability) != 0) {
            text += formatted("{}{}", text.empty() ? "" : " and ", why);
        }
    }
    return (text.empty() ? "none" : text) +
           (has_more_threads() ? " (not dropped by threads that drivers had started before)" : "");
}

}  // namespace caravan::platform
