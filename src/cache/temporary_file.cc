#include "cache/temporary_file.h"

#include <utility>

#include "platform/file.h"

namespace caravan::cache {

Result<TemporaryFile> TemporaryFile::create(const std::filesystem::path & directory) {
    auto made = platform::create_unique_file(directory.string() + "/");
    if (!made) {
        return fail(Errc::io, "cannot create a file in {}: {}", directory.string(), made.error().text);
    }
    // Store::open() in another process does not remove a locked file.
    (void)platform::try_lock(made->fd.get(), platform::Lock::exclusive);
    return TemporaryFile(std::move(made->fd), std::move(made->path));
}

TemporaryFile::TemporaryFile(TemporaryFile && other) noexcept
    : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}

TemporaryFile::~TemporaryFile() { discard(); }

Result<> TemporaryFile::write(ConstBytes data) {
    const auto written = platform::write_all(fd_.get(), data);
    return written ? Result<>() : fail(Errc::io, "cannot write {}: {}", path_, written.error().text);
}

Result<> TemporaryFile::close() {
    const auto closed = platform::close_file(std::move(fd_));
    return closed ? Result<>() : fail(Errc::io, "cannot write {}: {}", path_, closed.error().text);
}

Result<> TemporaryFile::move_over(const std::filesystem::path & target) {
    if (const auto moved = platform::move_over(path_, target); !moved) {
        return fail(Errc::io, "cannot move {} to {}: {}", path_, target.string(), moved.error().text);
    }
    path_.clear();
    return {};
}

Result<bool> TemporaryFile::move_if_absent(const std::filesystem::path & target) {
    const auto moved = platform::move_if_absent(path_, target);
    if (!moved) {
        return fail(Errc::io, "cannot move {} to {}: {}", path_, target.string(), moved.error().text);
    }
    if (*moved) {
        path_.clear();
    }
    return *moved;
}

void TemporaryFile::discard() {
    fd_.reset();
    if (!path_.empty()) {
        platform::remove_name(path_);
        path_.clear();
    }
}

}  // namespace caravan::cache
