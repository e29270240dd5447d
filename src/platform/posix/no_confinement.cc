// For systems without these mechanisms.

#include "platform/capabilities.h"
#include "platform/hardening.h"
#include "platform/landlock.h"
#include "platform/syscall_filter.h"

namespace caravan::platform {

Result<FileLimits> restrict_files(const FileRules &) { return fail(Errc::unsupported, "Linux only"); }
bool has_more_threads() { return true; }
std::string drop_capabilities(const FileRules &) { return "unknown"; }
Result<> refuse_syscalls(Network, bool) { return fail(Errc::unsupported, "Linux only"); }
Result<> forbid_new_privileges() { return fail(Errc::unsupported, "Linux only"); }
Result<> forbid_tracing() { return fail(Errc::unsupported, "Linux only"); }

}  // namespace caravan::platform
