// The server's weight cache on disk (`rpc-server -c`): keeps uploaded weights, and finds them by hash when a client is about
// to upload them again.
//
// A blob is named after the BLAKE3 of its content, and is verified against it when it is read: a truncated or altered blob
// is removed, never served. Stock clients ask by FNV-1a 64 and size, which an index maps to the BLAKE3. FNV-1a is not
// collision-resistant: as with the stock server, a client can choose the content of a key that is not in use yet, but it
// cannot change an existing one. layout.h describes the files. The stock server's files in the same directory are not
// touched.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "cache/layout.h"
#include "cache/reader.h"
#include "cache/writer.h"

namespace caravan::cache {

// The cache directory of llama.cpp's programs: $LLAMA_CACHE/rpc, else $XDG_CACHE_HOME/llama.cpp/rpc (not on macOS), else
// $HOME/.cache/llama.cpp/rpc (macOS: $HOME/Library/Caches/llama.cpp/rpc). An empty variable counts as unset.
// Errc::not_found if none is set.
Result<std::filesystem::path> default_directory();

// The default size limit in bytes: a quarter of the file system that holds `directory`, which need not exist yet. 0 (no
// limit) if its size is unknown.
uint64_t default_limit(const std::filesystem::path & directory);

// Any number of processes may open the same directory. Thread-safe.
class Store {
public:
    // Opens `directory`/caravan, and creates it with mode 0700 if it is missing. Removes files that killed processes left in
    // tmp/, and evicts blobs beyond `max_bytes` (0: no limit). Opens a read-only store if the directories are not writable.
    // Errc::io if they cannot be created or read.
    static Result<Store> open(const std::filesystem::path & directory, uint64_t max_bytes = 0);

    // Finds the blob with this FNV-1a 64 and size, and marks it as used. If the index has no such entry, the first call for
    // a size indexes all blobs of that size, which may take seconds.
    std::optional<Reader> find(uint64_t fnv, uint64_t size) const;

    // Finds the blob with this BLAKE3 and size, and marks it as used. `hex` may come from a peer; anything but 64 lower-case
    // hex digits is not found.
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size) const;

    // As Weights::seal(); applies to later calls of find() and find_digest().
    void seal() { state_->is_sealed = true; }

    // Why the store is read-only; empty if it is writable.
    const std::string & problem() const { return state_->problem; }

    // Begins an entry of `size` bytes; space is made as its bytes arrive. std::nullopt if the size exceeds the limit, the
    // store is read-only, or this or an earlier entry could not be written (a warning has been logged). The upload itself
    // is not affected.
    std::optional<Writer> begin(uint64_t size, Keys keys = Keys::digest_and_fnv) const;

private:
    explicit Store(std::shared_ptr<StoreState> state) : state_(std::move(state)) {}

    std::shared_ptr<StoreState> state_;
};

}  // namespace caravan::cache
