// Memory pages.
#pragma once

#include <cstdint>

namespace caravan {

// Bytes; a power of two. Any thread.
uint64_t page_size();

// Rounds `size`, in bytes, up to a multiple of the page size.
inline uint64_t whole_pages(uint64_t size) { return (size + page_size() - 1) / page_size() * page_size(); }

}  // namespace caravan
