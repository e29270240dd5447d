// The index that maps the hash of the stock protocol, FNV-1a 64, to a blob.
//
// FNV-1a is slow (0.9 GB/s), and only stock clients use it. Blobs from native clients, which use BLAKE3, are stored
// without an index entry. They are indexed when a stock client asks for a blob of their size.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "cache/layout.h"

namespace caravan::cache {

// Maps `key` to `digest`. Returns true if the index now does so, whether through this or another process. Returns false if
// it maps the key to another blob, which it keeps.
Result<bool> add_to_index(const Layout & layout, Key key, const std::string & digest);

// Adds all blobs of `size` bytes that the index lacks. Reads each of them once. Removes those that are damaged or whose key
// belongs to another blob.
void index_blobs(const Layout & layout, uint64_t size);

}  // namespace caravan::cache
