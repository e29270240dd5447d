#include "server/graph/host_memory.h"

#include "platform/memory.h"
#include "platform/pages.h"

namespace caravan::server {
namespace {

uint64_t usable(uint64_t size) { return whole_pages(size + overread_bytes); }

}  // namespace

HostMemory::HostMemory(uint64_t size) {
    if (size == 0 || size > UINT64_MAX / 2) {
        return;
    }
    if (std::byte * const begin = platform::allocate_guarded(usable(size))) {
        bytes_ = {begin, size};
    }
}

HostMemory::~HostMemory() {
    if (!bytes_.empty()) {
        platform::free_guarded(bytes_.data(), usable(bytes_.size()));
    }
}

}  // namespace caravan::server
