// Reads a kept blob into its destination, and says afterwards whether the bytes may be trusted.
#pragma once

#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "cache/digest.h"
#include "cache/layout.h"

namespace caravan::cache {

// From Store::find, which it may outlive. One thread at a time.
class Reader {
public:
    // The next bytes, as many as fit, at most 1 MiB at a time; 0 at the end (or for no room). Fails with Errc::io.
    Result<size_t> read(MutableBytes to);

    // True if everything was read and is what was stored: until then the bytes are nobody's. False: the entry was
    // removed, and the caller does as if it had not been found. Call it where reading ended, with an error too; not
    // where the caller gave up for reasons of its own, since that would remove a good entry.
    bool verify();

    uint64_t size() const { return key_.size; }

private:
    friend class Store;
    Reader(Layout layout, Key key, Blob blob) : layout_(std::move(layout)), key_(key), blob_(std::move(blob)) {}

    Layout layout_;
    Key key_;
    Blob blob_;
    Sha256 digest_;
    uint64_t taken_ = 0;  // bytes read so far, at most key_.size
    std::optional<bool> verdict_;
};

}  // namespace caravan::cache
