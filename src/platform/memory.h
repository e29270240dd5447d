// Memory of this process. Threads: any.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace caravan::platform {

// Zeroed pages between two inaccessible ones; null if there is no memory. `size`: bytes, a multiple of page_size().
std::byte * allocate_guarded(uint64_t size);
void free_guarded(std::byte * memory, uint64_t size);

// Gives the whole pages within `memory` their memory now, without changing them. False if the system cannot.
bool populate(MutableBytes memory);

}  // namespace caravan::platform
