// A file that a child writes and this process reads. The destructor removes it.
#pragma once

#include <string>

#include "base/error.h"

namespace caravan::bench {

class TemporaryFile {
public:
    // Creates an empty file <name>-XXXXXX in the directory for temporary files.
    static Result<TemporaryFile> make(const std::string & name);
    TemporaryFile(TemporaryFile && other) noexcept;
    TemporaryFile & operator=(TemporaryFile && other) = delete;
    ~TemporaryFile();

    const std::string & path() const { return path_; }
    std::string text() const;

private:
    explicit TemporaryFile(std::string path) : path_(std::move(path)) {}

    std::string path_;  // empty: moved from
};

}  // namespace caravan::bench
