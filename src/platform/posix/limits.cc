#include "platform/limits.h"

#include <sys/resource.h>

namespace caravan::platform {
namespace {

void set(int resource, uint64_t value) {
    const rlimit limit{static_cast<rlim_t>(value), static_cast<rlim_t>(value)};
    ::setrlimit(static_cast<decltype(RLIMIT_CORE)>(resource), &limit);
}

}  // namespace

void limit_core_dumps(uint64_t bytes) { set(RLIMIT_CORE, bytes); }
void limit_data(uint64_t bytes) { set(RLIMIT_DATA, bytes); }

std::optional<OpenFileLimit> open_file_limit() {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? std::optional<OpenFileLimit>({limit.rlim_cur, limit.rlim_max})
                                                   : std::nullopt;
}

void set_open_file_limit(OpenFileLimit limit) {
    const rlimit both{static_cast<rlim_t>(limit.now), static_cast<rlim_t>(limit.most)};
    ::setrlimit(RLIMIT_NOFILE, &both);
}

void set_open_file_limit_of([[maybe_unused]] ProcessId process, [[maybe_unused]] uint64_t most) {
#ifdef __linux__
    const rlimit both{static_cast<rlim_t>(most), static_cast<rlim_t>(most)};
    ::prlimit(process, RLIMIT_NOFILE, &both, nullptr);
#endif
}

}  // namespace caravan::platform
