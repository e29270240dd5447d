#include "bench/temporary_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "platform/unique_fd.h"

namespace caravan::bench {

Result<TemporaryFile> TemporaryFile::make(const std::string & name) {
    std::error_code error;
    const auto folder = std::filesystem::temp_directory_path(error);
    if (error) {
        return fail(Errc::io, "no directory for temporary files: {}", error.message());
    }
    std::string path = (folder / (name + "-XXXXXX")).string();
    const UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
    if (!file) {
        return fail(Errc::io, "cannot create {}: {}", path, errno_text(errno));
    }
    return TemporaryFile(std::move(path));
}

TemporaryFile::TemporaryFile(TemporaryFile && other) noexcept : path_(std::exchange(other.path_, {})) {}

TemporaryFile::~TemporaryFile() {
    if (!path_.empty()) {
        ::unlink(path_.c_str());
    }
}

std::string TemporaryFile::text() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace caravan::bench
