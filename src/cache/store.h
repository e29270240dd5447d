// The server's memory of weights (`rpc-server -c`): what was uploaded once is found by its hash the next time.
//
// Contents are named by their SHA-256, and read back they must have it: a truncated or altered file is never served
// but removed. The protocol asks by FNV-1a 64 and size, which an index leads to the SHA-256. Whoever may upload can
// thereby choose what is found under a hash that nobody used before, as with the stock server, but can change nothing
// that is there. layout.h has the files; stock's own files beside them are not touched.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "cache/layout.h"
#include "cache/reader.h"
#include "cache/writer.h"

namespace caravan::cache {

// Where llama.cpp's programs keep such things: $LLAMA_CACHE/rpc, else $XDG_CACHE_HOME/llama.cpp/rpc (not on macOS),
// else $HOME/.cache/llama.cpp/rpc (macOS: $HOME/Library/Caches/llama.cpp/rpc). A variable that is empty counts as not
// set. Errc::not_found if none is.
Result<std::filesystem::path> default_directory();

// Any number of processes may have the same directory open. The object is a path: find() and begin() may be called
// from several threads.
class Store {
public:
    // Our files are in `directory`/caravan, mode 0700, made if missing. Removes what killed processes left in tmp/ a
    // day ago or earlier. Errc::io if the directories cannot be made or written.
    static Result<Store> open(const std::filesystem::path & directory);

    // The entry for bytes with this FNV-1a 64 and this size.
    std::optional<Reader> find(uint64_t fnv, uint64_t size) const;

    // An entry to be, of `size` bytes. Errc::io if it cannot be begun: the upload goes on without.
    Result<Writer> begin(uint64_t size) const;

private:
    explicit Store(Layout layout) : layout_(std::move(layout)) {}

    Layout layout_;
};

}  // namespace caravan::cache
