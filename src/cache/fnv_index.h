// The way from the stock hash to a blob: entered when a blob is stored, or later, when somebody asks by that hash.
//
// FNV-1a 64 is slow (0.9 GB/s), and only stock clients ask by it. So what comes from a client that asks by BLAKE3 is
// stored without, and hashed here once a stock client asks for something of its size.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "cache/layout.h"

namespace caravan::cache {

// True: the index names `digest` for `key`, by us or by another process. False: it names another blob, which stays.
Result<bool> enter(const Layout & layout, Key key, const std::string & digest);

// Enters all blobs of `size` bytes that the index does not name. Reads each of them once; those that prove to be
// damaged, or whose key has another blob already, are removed.
void enter_blobs(const Layout & layout, uint64_t size);

}  // namespace caravan::cache
