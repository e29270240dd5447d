// Keeps the store below its limit: what was used longest ago goes first.
#pragma once

#include <cstdint>

#include "cache/layout.h"

namespace caravan::cache {

// Removes entries until what is stored and `wanted` bytes more are at most `max_bytes`, or nothing is left to remove.
// What other processes are writing counts as far as it is on disk, so uploads at the same time may exceed the limit
// until the last of them is committed. An entry that is being read is read to its end all the same.
void make_room(const Layout & layout, uint64_t max_bytes, uint64_t wanted);

}  // namespace caravan::cache
