#include "bench/temporary_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "platform/file.h"

namespace caravan::bench {

Result<TemporaryFile> TemporaryFile::make(const std::string & name) {
    std::error_code error;
    const auto folder = std::filesystem::temp_directory_path(error);
    if (error) {
        return fail(Errc::io, "no directory for temporary files: {}", error.message());
    }
    const std::string prefix = (folder / (name + "-")).string();
    auto file = platform::create_unique_file(prefix);
    if (!file) {
        return fail(Errc::io, "cannot create {}XXXXXX: {}", prefix, file.error().text);
    }
    return TemporaryFile(std::move(file->path));
}

TemporaryFile::TemporaryFile(TemporaryFile && other) noexcept : path_(std::exchange(other.path_, {})) {}

TemporaryFile::~TemporaryFile() {
    if (!path_.empty()) {
        platform::remove_name(path_);
    }
}

std::string TemporaryFile::text() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace caravan::bench
