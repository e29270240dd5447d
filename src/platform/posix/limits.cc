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

}  // namespace caravan::platform
