#include "platform/memory.h"

#include <sys/mman.h>

#include "platform/pages.h"

namespace caravan::platform {

std::byte * allocate_guarded(uint64_t size) {
    const uint64_t guarded = size + 2 * page_size();
    void * const all = ::mmap(nullptr, guarded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        return nullptr;
    }
    std::byte * const memory = static_cast<std::byte *>(all) + page_size();
    if (::mprotect(memory, size, PROT_READ | PROT_WRITE) != 0) {
        ::munmap(all, guarded);
        return nullptr;
    }
    return memory;
}

void free_guarded(std::byte * memory, uint64_t size) { ::munmap(memory - page_size(), size + 2 * page_size()); }

bool populate([[maybe_unused]] MutableBytes memory) {
#ifdef MADV_POPULATE_WRITE
    const uint64_t page = page_size();
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    const uintptr_t begin = (address + page - 1) / page * page, end = (address + memory.size()) / page * page;
    return begin >= end || ::madvise(reinterpret_cast<void *>(begin), end - begin, MADV_POPULATE_WRITE) == 0;
#else
    return false;
#endif
}

}  // namespace caravan::platform
