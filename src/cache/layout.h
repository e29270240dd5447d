// The store on disk.
//
//   <root>/blobs/<digest>            the bytes, mode 0600; the name is the BLAKE3 of the content, 64 lower-case hex
//   <root>/index/<fnv>-<size>        which blob it is: its name and a newline. fnv: FNV-1a 64 of the bytes, 16 hex
//                                    digits, as SET_TENSOR_HASH asks for it; size: bytes, decimal. Made when such
//                                    a client stores the blob, or asks for one of its size (fnv_index.h)
//   <root>/tmp/XXXXXX                being written
//   <root>/digests/<fnv of a path>   what was found in a model file (digest_file.h), written by the indexer only
//
// A blob's time of modification says when it was last used: finding an entry sets it.
//
// A blob is in its place before the index names it, and both get there whole by one rename or link. So an entry whose
// blob is missing or has another size is damaged, never half-made, and may be removed by whoever sees it. Processes
// that share the store need no lock: the worst that a race can do is to lose an entry, which costs one upload.
//
// Only numbers make names: nothing else from a peer reaches the file system, and what an index file says is used only
// if it is 64 hex digits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

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
    std::filesystem::path digests() const { return root / "digests"; }
    std::filesystem::path blob(std::string_view digest) const { return blobs() / digest; }
    std::filesystem::path index_file(Key key) const;
};

// Makes it if it is missing, for its owner alone (mode 0700). Errc::io if that fails or it cannot be written.
Result<> make_private(const std::filesystem::path & directory);

// <directory>/caravan, there or not.
Layout layout_in(const std::filesystem::path & directory);

// The same. `directory` is made if missing: with the usual mode, since it is shared with others.
Result<Layout> make_root(const std::filesystem::path & directory);

struct Blob {
    std::string digest;  // its name; whether the bytes agree is for the reader to find out
    UniqueFd fd;         // of a file of the size that was asked for
};

// The blob that the index names for `key`, if there is one. A damaged entry is removed and counts as none; one that
// cannot be opened now (no descriptors left, no permission) counts as none and stays.
std::optional<Blob> open_blob(const Layout & layout, Key key);

// The same by the content's name. A peer may say any name and size: nothing is removed, whatever is found.
std::optional<Blob> open_blob(const Layout & layout, std::string_view digest, uint64_t size);

// The name in an index file, "" if there is none or the file is not as Writer makes it.
std::string read_index_file(const std::filesystem::path & path);

// Takes the index file and the blob away (`digest` empty: the index file only) and warns with the reason.
void remove_entry(const Layout & layout, Key key, std::string_view digest, std::string_view reason);

}  // namespace caravan::cache
