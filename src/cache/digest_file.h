// The file that keeps the digests of one model file, so that each model file is hashed once.
//
//   caravan-digests 1
//   <path of the model file>
//   <inode> <size, bytes> <modified, ns since 1970>
//   <offset, bytes> <size, bytes> <FNV-1a 64, 16 hex digits> <BLAKE3, 64 hex digits>     one line per tensor
//   rows <offset> <size> <number> <distance, bytes> <BLAKE3 of the packed rows>           one line per part
//   end
//
// Its path is <root>/digests/<FNV-1a 64 of the model's path>, its mode 0600. It is written to a temporary file in the same
// directory and renamed. (<root>/tmp would not do: workers, which serve untrusted peers, can write there but not in
// <root>/digests.) A file that deviates from this format is ignored and rewritten.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cache/extent.h"
#include "cache/layout.h"
#include "cache/rows.h"

namespace caravan::cache {

// Identifies one version of a file: it differs after the file was modified or replaced.
struct FileStamp {
    uint64_t inode = 0;
    uint64_t size = 0;         // bytes
    int64_t modified_ns = 0;   // since 1970

    // The stamp of an open regular file; std::nullopt for any other descriptor.
    static std::optional<FileStamp> of(Descriptor file);

    bool operator==(const FileStamp &) const = default;
};

struct TensorDigest {
    Extent extent;
    uint64_t fnv = 0;
    std::string digest;
};

struct PartDigest {
    Rows rows;
    std::string digest;
};

struct FileDigests {
    std::filesystem::path path;
    FileStamp stamp;
    std::vector<TensorDigest> tensors;
    std::vector<PartDigest> parts;  // of tensors that clients split; with gaps
};

// Creates <directory>/caravan/digests and its parents as needed. Errc::io if that fails or they are not writable.
Result<Layout> open_digests(const std::filesystem::path & directory);

// True if one of `directories` is a prefix of `path`. Compares names only, and does not resolve links or "..".
bool lies_below(const std::filesystem::path & path, const std::vector<std::filesystem::path> & directories);

// The path of the digest file of `model`.
std::filesystem::path digest_file(const Layout & layout, const std::filesystem::path & model);
// True for names that digest_file() produces; false for temporary files in the same directory.
bool is_digest_file_name(std::string_view name);

// std::nullopt if `file` cannot be read or is malformed.
std::optional<FileDigests> load_digests(const std::filesystem::path & file);

// Writes the digest file of digests.path. Errc::invalid_argument if that path contains a newline, Errc::io on a write error.
Result<> save_digests(const Layout & layout, const FileDigests & digests);

}  // namespace caravan::cache
