#include "server/memory_budget.h"

#include "base/size_text.h"

namespace caravan::server {

Result<> MemoryBudget::check_buffer(uint64_t size) const {
    if (size > rest()) {
        return fail(Errc::no_memory, "{} more than the {} that a session may have (--max-memory)", size_text(size),
                    size_text(max_bytes_));
    }
    return {};
}

Result<MemoryClaim> MemoryBudget::claim_host(uint64_t bytes) {
    if (!has_host(bytes)) {
        return fail(Errc::no_memory, "a session's graphs may take {}{}, and there is no room for {} more",
                    size_text(std::min(max_bytes_, max_host)), max_bytes_ < no_limit ? " with its buffers (--max-memory)" : "",
                    size_text(bytes));
    }
    change_host(host_ + bytes);
    return MemoryClaim(*this, bytes);
}

}  // namespace caravan::server
