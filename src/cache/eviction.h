// Keeps the store below its size limit by evicting the least recently used blobs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "cache/layout.h"

namespace caravan::cache {

// Evicts entries until `needed` more bytes fit below `max_bytes`. Returns how many further bytes would fit then, or
// std::nullopt if not enough can be evicted; in that case it evicts nothing, unless `needed` is 0.
//
// The size of the store is that of all blobs and of the written part of the unfinished uploads of all processes. Concurrent
// uploads may therefore exceed the limit until the last of them is committed. A blob that a process has mapped is never
// evicted: the mapping would keep its disk space allocated. A Reader of an evicted entry can still read it to the end.
std::optional<uint64_t> evict_to_fit(const Layout & layout, uint64_t max_bytes, uint64_t needed);

// Removes files from blobs/, index/ and used/ that this code does not create, and those that belong to no blob. A worker that
// its client has compromised can put any number of them there, where they would occupy disk space outside the limit. If
// several index files name one blob, all of them go: the right one is created again when a client asks for it.
void remove_foreign_files(const Layout & layout);

// True if a process has mapped this blob. Reader::map() takes a lock that lasts as long as the mapping.
bool is_mapped(const std::filesystem::path & blob);

}  // namespace caravan::cache
