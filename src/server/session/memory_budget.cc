#include "server/session/memory_budget.h"

#include "base/size_text.h"

namespace caravan::server {

Result<> MemoryBudget::check_buffer(uint64_t size) const {
    if (size > remaining()) {
        return fail(Errc::no_memory, "{} would exceed the session's limit of {} (--max-memory)", size_text(size),
                    size_text(max_bytes_));
    }
    return {};
}

Result<MemoryClaim> MemoryBudget::claim_host(uint64_t bytes, std::string_view purpose) {
    if (!fits_host(bytes)) {
        return fail(Errc::no_memory, "{} more {} would exceed the session's limit of {}{}", size_text(bytes), purpose,
                    size_text(std::min(max_bytes_, max_host)),
                    max_bytes_ < no_limit ? ", buffers included (--max-memory)" : "");
    }
    change_host(host_ + bytes);
    return MemoryClaim(*this, bytes);
}

}  // namespace caravan::server
