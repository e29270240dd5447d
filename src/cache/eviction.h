// Keeps the store below its limit: what was used longest ago goes first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "cache/layout.h"

namespace caravan::cache {

// Removes entries until what is stored and `wanted` bytes more are at most `max_bytes`. Counted are all blobs and, as far
// as they are on disk, the unfinished uploads of all processes; so uploads at the same time may exceed the limit until the
// last of them is committed. A blob that a process has mapped stays: it would keep its room on the disk. An entry that is
// being read is read to its end all the same.
//
// How many bytes more would fit then. Nothing if it cannot be done: for `wanted` > 0 nothing is removed then.
std::optional<uint64_t> make_room(const Layout & layout, uint64_t max_bytes, uint64_t wanted);

// Removes files from blobs/ and index/ that are not as we make them: a worker that has fallen to its client can put any
// there, where they would take room uncounted.
void remove_strangers(const Layout & layout);

// Has a process mapped this blob? Reader::map() takes a lock that lasts as long as its mapping.
bool is_mapped(const std::filesystem::path & blob);

}  // namespace caravan::cache
