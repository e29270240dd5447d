// A file that is being written: nobody looks at it until it is moved to its place, whole. Removed if it never is.
#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace caravan::cache {

class TemporaryFile {
public:
    // A new file in `directory` under a name that no other process has, mode 0600.
    static Result<TemporaryFile> create(const std::filesystem::path & directory);

    TemporaryFile(TemporaryFile && other) noexcept;
    TemporaryFile & operator=(TemporaryFile && other) = delete;
    ~TemporaryFile();

    // All of `data`, or an error: after one the file is good for nothing.
    Result<> write(ConstBytes data);

    // No more writes. Some file systems report only here that the disk is full.
    Result<> close();

    // Both need close() first, and a `target` on the same file system. The first replaces what is there. The second
    // never does: false if there is something already.
    Result<> move_over(const std::filesystem::path & target);
    Result<bool> move_if_absent(const std::filesystem::path & target);

    // Gone, with the room that it took on the disk.
    void discard();

private:
    TemporaryFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    UniqueFd fd_;
    std::string path_;  // empty: moved to its place, or discarded
};

}  // namespace caravan::cache
