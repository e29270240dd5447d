#include "cache/temporary_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace caravan::cache {
namespace {

constexpr size_t max_write = 1 << 30;  // macOS refuses a single write of 2 GiB

}  // namespace

Result<TemporaryFile> TemporaryFile::create(const std::filesystem::path & directory) {
    std::string path = (directory / "XXXXXX").string();
    UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
    if (!fd) {
        return fail(Errc::io, "cannot create a file in {}: {}", directory.string(), errno_text(errno));
    }
    // Store::open() in another process does not remove a locked file.
    (void)::flock(fd.get(), LOCK_EX | LOCK_NB);
    return TemporaryFile(std::move(fd), std::move(path));
}

TemporaryFile::TemporaryFile(TemporaryFile && other) noexcept
    : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}

TemporaryFile::~TemporaryFile() { discard(); }

Result<> TemporaryFile::write(ConstBytes data) {
    while (!data.empty()) {
        const ssize_t n = ::write(fd_.get(), data.data(), std::min(data.size(), max_write));
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail(Errc::io, "cannot write {}: {}", path_, errno_text(errno));
        }
        data = data.subspan(static_cast<size_t>(n));
    }
    return {};
}

Result<> TemporaryFile::close() {
    // On EINTR the descriptor is closed, and the kernel has reported no write error.
    if (::close(fd_.release()) != 0 && errno != EINTR) {
        return fail(Errc::io, "cannot write {}: {}", path_, errno_text(errno));
    }
    return {};
}

Result<> TemporaryFile::move_over(const std::filesystem::path & target) {
    if (::rename(path_.c_str(), target.c_str()) != 0) {
        return fail(Errc::io, "cannot move {} to {}: {}", path_, target.string(), errno_text(errno));
    }
    path_.clear();
    return {};
}

Result<bool> TemporaryFile::move_if_absent(const std::filesystem::path & target) {
#ifdef RENAME_NOREPLACE
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0) {
        path_.clear();
        return true;
    }
    if (errno == EEXIST) {
        return false;
    }
#endif
    if (::link(path_.c_str(), target.c_str()) == 0) {
        discard();
        return true;
    }
    const int error = errno;
    if (error == EEXIST) {
        return false;
    }
    // A file system without hard links (FAT, some network shares). Two processes may pass this check at the same time, and
    // the second then replaces the file of the first: better than no cache on such file systems.
    if (error == EPERM || error == ENOTSUP || error == EOPNOTSUPP || error == ENOSYS) {
        if (::access(target.c_str(), F_OK) == 0) {
            return false;
        }
        return move_over(target).transform([] { return true; });
    }
    return fail(Errc::io, "cannot move {} to {}: {}", path_, target.string(), errno_text(error));
}

void TemporaryFile::discard() {
    fd_.reset();
    if (!path_.empty()) {
        ::unlink(path_.c_str());
        path_.clear();
    }
}

}  // namespace caravan::cache
