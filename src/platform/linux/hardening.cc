#include "platform/hardening.h"

#include <sys/prctl.h>

#include <cerrno>

namespace caravan::platform {
namespace {

Result<> set(int option, unsigned long value) {
    return ::prctl(option, value, 0ul, 0ul, 0ul) == 0 ? Result<>() : fail(Errc::unsupported, "{}", errno_text(errno));
}

}  // namespace

Result<> forbid_new_privileges() { return set(PR_SET_NO_NEW_PRIVS, 1); }
Result<> forbid_tracing() { return set(PR_SET_DUMPABLE, 0); }

}  // namespace caravan::platform
