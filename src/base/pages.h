// Memory pages.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace caravan {

// Bytes; a power of two. Any thread.
inline uint64_t page_size() {
    static const auto size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

// Rounds `size`, in bytes, up to a multiple of the page size.
inline uint64_t whole_pages(uint64_t size) { return (size + page_size() - 1) / page_size() * page_size(); }

}  // namespace caravan
