#include "server/graph/host_memory.h"

#include <sys/mman.h>

#include "base/pages.h"

namespace caravan::server {
namespace {

uint64_t usable(uint64_t size) { return whole_pages(size + overread_bytes); }
// With a guard page on each side.
uint64_t guarded(uint64_t size) { return usable(size) + 2 * page_size(); }

}  // namespace

HostMemory::HostMemory(uint64_t size) {
    if (size == 0 || size > UINT64_MAX / 2) {
        return;
    }
    void * const all = ::mmap(nullptr, guarded(size), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        return;
    }
    std::byte * const begin = static_cast<std::byte *>(all) + page_size();
    if (::mprotect(begin, usable(size), PROT_READ | PROT_WRITE) != 0) {
        ::munmap(all, guarded(size));
        return;
    }
    bytes_ = {begin, size};
}

HostMemory::~HostMemory() {
    if (!bytes_.empty()) {
        ::munmap(bytes_.data() - page_size(), guarded(bytes_.size()));
    }
}

}  // namespace caravan::server
