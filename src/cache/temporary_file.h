// A file that is written under a temporary name and then moved to its final name atomically. The destructor removes it
// unless it was moved.
#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::cache {

class TemporaryFile {
public:
    // Creates a file with a unique name in `directory`, mode 0600, and locks it while it is open. Errc::io on failure.
    static Result<TemporaryFile> create(const std::filesystem::path & directory);

    TemporaryFile(TemporaryFile && other) noexcept;
    TemporaryFile & operator=(TemporaryFile && other) = delete;
    ~TemporaryFile();

    // Appends all of `data`. Errc::io on failure; the file is unusable then.
    Result<> write(ConstBytes data);

    // Ends writing. Errc::io on failure: some file systems report a full disk only here.
    Result<> close();

    // Renames the file to `target`, on the same file system. Requires close(). move_over() replaces an existing file;
    // move_if_absent() returns false if there is one.
    Result<> move_over(const std::filesystem::path & target);
    Result<bool> move_if_absent(const std::filesystem::path & target);

    // Removes the file at once.
    void discard();

private:
    TemporaryFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    UniqueFd fd_;
    std::string path_;  // empty once moved or discarded
};

}  // namespace caravan::cache
