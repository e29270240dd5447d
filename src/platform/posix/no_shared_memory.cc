// Systems without memory that can be sealed.
#include "platform/shared_memory.h"

namespace caravan::platform {

Result<UniqueFd> make_shared_memory(uint64_t) { return fail(Errc::unsupported, "Linux only"); }
Result<UniqueFd> open_shared_memory(ProcessId, Descriptor, uint64_t) { return fail(Errc::unsupported, "Linux only"); }
Result<> check_shared_memory(Descriptor, uint64_t) { return fail(Errc::unsupported, "Linux only"); }
Result<SharedMapping> SharedMapping::map(Descriptor, uint64_t) { return fail(Errc::unsupported, "Linux only"); }
SharedMapping::~SharedMapping() = default;

const std::string & boot_id() {
    static const std::string none;
    return none;
}

}  // namespace caravan::platform
