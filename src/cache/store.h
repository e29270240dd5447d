// The server's memory of weights (`rpc-server -c`): what was uploaded once is found by its hash the next time.
//
// Contents are named by their BLAKE3, and read back they must have it: a truncated or altered file is never served
// but removed. The stock protocol asks by FNV-1a 64 and size, which an index leads to the BLAKE3. Whoever may upload can
// thereby choose what is found under a hash that nobody used before, as with the stock server, but can change nothing
// that is there. layout.h has the files; stock's own files beside them are not touched.
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

// Where llama.cpp's programs keep such things: $LLAMA_CACHE/rpc, else $XDG_CACHE_HOME/llama.cpp/rpc (not on macOS),
// else $HOME/.cache/llama.cpp/rpc (macOS: $HOME/Library/Caches/llama.cpp/rpc). A variable that is empty counts as not
// set. Errc::not_found if none is.
Result<std::filesystem::path> default_directory();

// What the store may take by default: a quarter of the disk that holds `directory`, which need not exist yet. 0 (no
// limit) if that disk does not say how large it is.
uint64_t default_limit(const std::filesystem::path & directory);

// Any number of processes may have the same directory open. The object is a path: find() and begin() may be called
// from several threads.
class Store {
public:
    // Our files are in `directory`/caravan, mode 0700, made if missing. Removes what killed processes left in tmp/, and what
    // exceeds `max_bytes` (0: no limit). A store that can only be read is opened for that; else Errc::io if the directories
    // cannot be made or read.
    static Result<Store> open(const std::filesystem::path & directory, uint64_t max_bytes = 0);

    // The entry for bytes with this FNV-1a 64 and this size. It counts as used. If there is none, the blobs of this size
    // that were stored without that hash are hashed, once: that may take seconds.
    std::optional<Reader> find(uint64_t fnv, uint64_t size) const;

    // The entry for bytes with this BLAKE3 (lower-case hex; anything else is not found) and this size. It counts as
    // used.
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size) const;

    // Weights::seal, of what is found from now on.
    void seal() { state_->is_sealed = true; }

    // Why nothing can be kept; empty if it can.
    const std::string & problem() const { return state_->problem; }

    // An entry to be, of `size` bytes; room is made as its bytes arrive. None if it is larger than the limit, nothing can
    // be kept, or it cannot be begun or an earlier one could not be written, of which a warning has said why: the upload
    // goes on without.
    std::optional<Writer> begin(uint64_t size, Keys keys = Keys::digest_and_fnv) const;

private:
    explicit Store(std::shared_ptr<StoreState> state) : state_(std::move(state)) {}

    std::shared_ptr<StoreState> state_;
};

}  // namespace caravan::cache
