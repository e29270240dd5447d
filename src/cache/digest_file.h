// What is known of one model file, kept on disk so that it is hashed once.
//
//   caravan-digests 1
//   <path of the model file>
//   <inode> <size, bytes> <modified, ns since 1970>
//   <offset, bytes> <size, bytes> <FNV-1a 64, 16 hex digits> <BLAKE3, 64 hex digits>     one line for each tensor
//   end
//
// Such a file lies in <root>/digests under the FNV-1a 64 of the path, mode 0600, and gets there whole by one rename. It is
// written in the same folder, since workers, which serve peers, may write in <root>/tmp but never here.
// What is not exactly like this counts as nothing, and is written anew.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cache/gguf.h"
#include "cache/layout.h"

namespace caravan::cache {

// Tells a file from another one that took its place, and from itself after a change.
struct FileStamp {
    uint64_t inode = 0;
    uint64_t size = 0;         // bytes
    int64_t modified_ns = 0;   // since 1970

    // Of an open regular file; nothing for anything else.
    static std::optional<FileStamp> of(int fd);

    bool operator==(const FileStamp &) const = default;
};

struct TensorDigest {
    Extent extent;
    uint64_t fnv = 0;
    std::string digest;
};

struct FileDigests {
    std::filesystem::path path;
    FileStamp stamp;
    std::vector<TensorDigest> tensors;
};

// <directory>/caravan with what is needed to keep digests there. Errc::io if it cannot be made or written.
Result<Layout> open_digests(const std::filesystem::path & directory);

// Whether `path` lies below one of `directories`, by its name alone.
bool lies_below(const std::filesystem::path & path, const std::vector<std::filesystem::path> & directories);

std::filesystem::path digest_file(const Layout & layout, const std::filesystem::path & model);
// Is this how digest_file() names files? Others are being written, or were when a process died.
bool is_digest_file_name(std::string_view name);

std::optional<FileDigests> load_digests(const std::filesystem::path & file);

// Errc::invalid_argument for a path with a newline, Errc::io if the disk does not take it.
Result<> save_digests(const Layout & layout, const FileDigests & digests);

}  // namespace caravan::cache
