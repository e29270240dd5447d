#include "platform/mapping.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "platform/pages.h"

namespace caravan::platform {

Result<Mapping> Mapping::map(Descriptor file, uint64_t offset, uint64_t size) {
    const uint64_t before = offset % page_size();
    void * mapped = ::mmap(nullptr, before + size, PROT_READ, MAP_PRIVATE, file, static_cast<off_t>(offset - before));
    if (mapped == MAP_FAILED) {
        return fail(Errc::io, "{}", errno_text(errno));
    }
    const MutableBytes pages = mutable_bytes(mapped, before + size);
    return Mapping(pages, pages.subspan(before));
}

Mapping::~Mapping() {
    if (!pages_.empty()) {
        ::munmap(pages_.data(), pages_.size());
    }
}

Result<uint64_t> Mapping::resident() const {
    std::vector<unsigned char> flags(whole_pages(pages_.size()) / page_size());
    if (::mincore(pages_.data(), pages_.size(), flags.data()) != 0) {
        return fail(Errc::io, "{}", errno_text(errno));
    }
    const auto count = std::ranges::count_if(flags, [](unsigned char flag) { return (flag & 1) != 0; });
    return static_cast<uint64_t>(count) * page_size();
}

bool map_over(MutableBytes pages, Descriptor file, uint64_t offset) {
    if (::mmap(pages.data(), pages.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
               static_cast<off_t>(offset)) == MAP_FAILED) {
        replace_by_zeros(pages);  // the failed call may have removed some of the pages
        return false;
    }
    return true;
}

void replace_by_zeros(MutableBytes pages) {
    ::mmap(pages.data(), pages.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

}  // namespace caravan::platform
