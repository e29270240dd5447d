#include "platform/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "platform/posix/open_without_links.h"

namespace caravan::platform {
namespace {

constexpr size_t max_write = 1 << 30;  // macOS refuses a single write of 2 GiB

std::unexpected<Error> io_error(int error) { return fail(Errc::io, "{}", errno_text(error)); }

FileStatus status_in(const struct stat & status) {
#ifdef __APPLE__
    const timespec & modified = status.st_mtimespec;
#else
    const timespec & modified = status.st_mtim;
#endif
    return {.device = static_cast<uint64_t>(status.st_dev),
            .inode = static_cast<uint64_t>(status.st_ino),
            .size = static_cast<uint64_t>(status.st_size),
            .allocated = static_cast<uint64_t>(status.st_blocks) * 512,
            .modified_ns = int64_t{modified.tv_sec} * 1'000'000'000 + modified.tv_nsec,
            .links = static_cast<uint64_t>(status.st_nlink),
            .owner = static_cast<uint32_t>(status.st_uid),
            .is_regular = S_ISREG(status.st_mode),
            .is_link = S_ISLNK(status.st_mode)};
}

}  // namespace

Result<UniqueFd> open_to_read(const std::filesystem::path & path, Links links) {
    constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    UniqueFd fd(links == Links::refuse_any ? open_without_links(path.c_str(), flags)
                                           : ::open(path.c_str(), flags | (links == Links::follow ? 0 : O_NOFOLLOW)));
    if (fd) {
        return fd;
    }
    switch (errno) {
        case ENOENT: return fail(Errc::not_found, "{}", errno_text(errno));
        case ELOOP:
        case EMLINK:
        case ENXIO: return fail(Errc::invalid_argument, "{}", errno_text(errno));
        default: return io_error(errno);
    }
}

Result<UniqueFd> open_to_append(const std::filesystem::path & path) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
    return fd ? Result<UniqueFd>(std::move(fd)) : io_error(errno);
}

Result<NewFile> create_unique_file(std::string prefix) {
    prefix += "XXXXXX";
    UniqueFd fd(::mkostemp(prefix.data(), O_CLOEXEC));
    return fd ? Result<NewFile>(NewFile{std::move(fd), std::move(prefix)}) : io_error(errno);
}

Result<> close_file(UniqueFd file) {
    // On EINTR the descriptor is closed, and the kernel has reported no write error.
    return ::close(file.release()) != 0 && errno != EINTR ? io_error(errno) : Result<>();
}

Result<size_t> read_at(Descriptor file, MutableBytes to, uint64_t offset) {
    ssize_t n = 0;
    do {
        n = ::pread(file, to.data(), to.size(), static_cast<off_t>(offset));
    } while (n < 0 && errno == EINTR);
    return n < 0 ? io_error(errno) : Result<size_t>(static_cast<size_t>(n));
}

Result<size_t> read_some(Descriptor file, MutableBytes to) {
    ssize_t n = 0;
    do {
        n = ::read(file, to.data(), to.size());
    } while (n < 0 && errno == EINTR);
    return n < 0 ? io_error(errno) : Result<size_t>(static_cast<size_t>(n));
}

Result<> write_all(Descriptor file, ConstBytes bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(file, bytes.data(), std::min(bytes.size(), max_write));
        if (n < 0 && errno != EINTR) {
            return io_error(errno);
        }
        bytes = bytes.subspan(static_cast<size_t>(std::max<ssize_t>(n, 0)));
    }
    return {};
}

Result<> write_at_once(Descriptor file, ConstBytes bytes) {
    const ssize_t n = ::write(file, bytes.data(), bytes.size());
    if (n < 0) {
        return io_error(errno);
    }
    return static_cast<size_t>(n) == bytes.size() ? Result<>() : fail(Errc::io, "wrote {} of {} bytes", n, bytes.size());
}

std::optional<FileStatus> status_of(Descriptor file) {
    struct stat status;
    return ::fstat(file, &status) == 0 ? std::optional(status_in(status)) : std::nullopt;
}

std::optional<FileStatus> status_of_name(const std::filesystem::path & path) {
    struct stat status;
    return ::lstat(path.c_str(), &status) == 0 ? std::optional(status_in(status)) : std::nullopt;
}

bool is_trusted_owner(uint32_t user) { return user == 0 || user == ::geteuid(); }

Result<> make_private_directory(const std::filesystem::path & path) {
    struct stat status;
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
        return io_error(errno);
    }
    if (::stat(path.c_str(), &status) != 0) {
        return io_error(errno);
    }
    if (!S_ISDIR(status.st_mode)) {
        return io_error(ENOTDIR);
    }
    return ::access(path.c_str(), R_OK | W_OK | X_OK) == 0 ? Result<>() : io_error(errno);
}

bool may_list(const std::filesystem::path & directory) {
    struct stat status;
    return ::stat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && ::access(directory.c_str(), R_OK | X_OK) == 0;
}

bool may_execute(const std::filesystem::path & file) { return ::access(file.c_str(), X_OK) == 0; }

void remove_name(const std::filesystem::path & path) noexcept { ::unlink(path.c_str()); }
void remove_name(const std::string & path) noexcept { ::unlink(path.c_str()); }

Result<> move_over(const std::string & from, const std::filesystem::path & to) {
    return ::rename(from.c_str(), to.c_str()) == 0 ? Result<>() : io_error(errno);
}

Result<bool> move_if_absent(const std::string & from, const std::filesystem::path & to) {
#ifdef RENAME_NOREPLACE
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
        return true;
    }
    if (errno == EEXIST) {
        return false;
    }
#endif
    if (::link(from.c_str(), to.c_str()) == 0) {
        remove_name(from);
        return true;
    }
    const int error = errno;
    if (error == EEXIST) {
        return false;
    }
    if (error == EPERM || error == ENOTSUP || error == EOPNOTSUPP || error == ENOSYS) {  // no hard links
        if (::access(to.c_str(), F_OK) == 0) {
            return false;
        }
        return move_over(from, to).transform([] { return true; });
    }
    return io_error(error);
}

Locked try_lock(Descriptor file, Lock lock) {
    if (::flock(file, (lock == Lock::shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
        return Locked::yes;
    }
    return errno == EWOULDBLOCK ? Locked::busy : Locked::unsupported;
}

bool has_no_writer([[maybe_unused]] Descriptor file) {
#ifdef __linux__
    // The kernel grants a read lease only while no process has the file open for writing.
    if (::fcntl(file, F_SETLEASE, F_RDLCK) == 0) {
        ::fcntl(file, F_SETLEASE, F_UNLCK);
        return true;
    }
#endif
    return false;
}

Result<> drop_from_page_cache(Descriptor file) {
    ::fdatasync(file);  // dirty pages cannot be dropped
    const int error = ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    return error == 0 ? Result<>() : fail(Errc::unsupported, "{}", errno_text(error));
}

}  // namespace caravan::platform
