// The layout of the store on disk.
//
//   <root>/blobs/<digest>            a blob, mode 0600, named after the BLAKE3 of its content: 64 lower-case hex digits
//   <root>/index/<fnv>-<size>        the name of a blob and a newline. fnv: FNV-1a 64 of the content, 16 hex digits, the
//                                    hash of SET_TENSOR_HASH; size: bytes, decimal. Created when a stock client stores
//                                    the blob, or asks for a blob of this size (fnv_index.h)
//   <root>/used/<digest>             empty; its modification time is the time of the blob's last use
//   <root>/tmp/XXXXXX                an unfinished upload
//   <root>/digests/<fnv of a path>   the digests of a model file (digest_file.h); only the indexer writes here
//
// A blob was last used when it was stored, or at the modification time of its file in used/, which each lookup creates anew.
// Workers may not set the times of files: they could do that to model files, too, which they can only read.
//
// Blobs and index files appear atomically, by rename or link, and a blob appears before its index file. An entry whose blob
// is missing or has another size is therefore damaged rather than incomplete, and any process may remove it. Processes that
// share a store need no lock: a race can at most lose an entry, which costs one upload.
//
// File names consist of numbers only. Nothing else from a peer reaches the file system, and the content of an index file is
// ignored unless it is 64 hex digits and a newline.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::cache {

struct Key {
    uint64_t fnv = 0;   // wire::fnv1a of the bytes
    uint64_t size = 0;  // bytes
};

struct Layout {
    std::filesystem::path root;

    std::filesystem::path blobs() const { return root / "blobs"; }
    std::filesystem::path index() const { return root / "index"; }
    std::filesystem::path temporary() const { return root / "tmp"; }
    std::filesystem::path used() const { return root / "used"; }
    std::filesystem::path digests() const { return root / "digests"; }
    std::filesystem::path blob(std::string_view digest) const { return blobs() / digest; }
    std::filesystem::path index_file(Key key) const;
};

// Creates `directory` with mode 0700 unless it exists. Errc::io if that fails or it is not writable.
Result<> make_private(const std::filesystem::path & directory);

// The layout below <directory>/caravan, which need not exist.
Layout layout_in(const std::filesystem::path & directory);

// As layout_in(), and creates <directory>/caravan. A missing `directory` gets the default mode, since it is shared with
// other programs. Errc::io if that fails.
Result<Layout> make_root(const std::filesystem::path & directory);

struct Blob {
    std::string digest;  // its name; the content is not verified yet
    UniqueFd fd;         // open for reading; the file has the requested size
};

// Opens the blob that the index maps `key` to; std::nullopt if there is none. Removes a damaged entry. Keeps an entry that
// cannot be opened now (no permission, too many open files).
std::optional<Blob> open_blob(const Layout & layout, Key key);

// Opens the blob with this name and size; std::nullopt if there is none. Removes nothing, since `digest` and `size` may
// come from a peer.
std::optional<Blob> open_blob(const Layout & layout, std::string_view digest, uint64_t size);

// The blob name in an index file; "" if the file is missing or malformed.
std::string read_index_file(const std::filesystem::path & path);

// Removes the index file of `key` and the blob `digest` (only the index file if that is empty). Logs a warning with
// `reason`.
void remove_entry(const Layout & layout, Key key, std::string_view digest, std::string_view reason);

}  // namespace caravan::cache
