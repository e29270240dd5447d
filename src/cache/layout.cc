#include "cache/layout.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "base/log.h"
#include "cache/digest.h"

namespace caravan::cache {
namespace {

// Does not follow a symbolic link, and does not block on a FIFO.
UniqueFd open_to_read(const std::filesystem::path & path) {
    return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
}

// The errors of open_to_read() for a path that is missing or no regular file.
bool is_missing_or_special(int error) { return error == ENOENT || error == ELOOP || error == EMLINK || error == ENXIO; }

// The blob name in an index file; "" if the file is malformed.
std::string read_name(int fd) {
    std::array<char, digest_hex_length + 2> text;  // one byte more than a valid file has, to detect longer ones
    ssize_t n;
    do {
        n = ::read(fd, text.data(), text.size());
    } while (n < 0 && errno == EINTR);
    if (n != static_cast<ssize_t>(digest_hex_length + 1) || text[digest_hex_length] != '\n') {
        return {};
    }
    const std::string_view name(text.data(), digest_hex_length);
    return is_digest_hex(name) ? std::string(name) : std::string();
}

bool has_size(int fd, uint64_t size) {
    struct stat status;
    return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) == size;
}

}  // namespace

std::filesystem::path Layout::index_file(Key key) const {
    return index() / formatted("{:016x}-{}", key.fnv, key.size);
}

Result<> make_private(const std::filesystem::path & directory) {
    std::error_code error;
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
        error.assign(errno, std::generic_category());
    } else if (!std::filesystem::is_directory(directory, error) && !error) {
        error = std::make_error_code(std::errc::not_a_directory);
    } else if (!error && ::access(directory.c_str(), R_OK | W_OK | X_OK) != 0) {
        error.assign(errno, std::generic_category());
    }
    if (error) {
        return fail(Errc::io, "weight cache: cannot create or write directory {}: {}", directory.string(),
                    error.message());
    }
    return {};
}

Layout layout_in(const std::filesystem::path & directory) { return {directory / "caravan"}; }

Result<Layout> make_root(const std::filesystem::path & directory) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) {
        return fail(Errc::io, "weight cache: cannot create directory {}: {}", directory.string(), error.message());
    }
    Layout layout = layout_in(directory);
    return make_private(layout.root).transform([&] { return std::move(layout); });
}

std::optional<Blob> open_blob(const Layout & layout, Key key) {
    const std::filesystem::path index_file = layout.index_file(key);
    const UniqueFd index = open_to_read(index_file);
    if (!index) {
        if (errno != ENOENT) {
            log_warning("weight cache: cannot read {}: {}", index_file.string(), errno_text(errno));
        }
        return std::nullopt;
    }
    std::string name = read_name(index.get());
    if (name.empty()) {
        remove_entry(layout, key, {}, "its index file is damaged");
        return std::nullopt;
    }
    const std::filesystem::path path = layout.blob(name);
    UniqueFd fd = open_to_read(path);
    if (!fd) {
        if (const int error = errno; is_missing_or_special(error)) {
            remove_entry(layout, key, name, "its blob is missing");
        } else {
            log_warning("weight cache: cannot read {}: {}", path.string(), errno_text(error));
        }
        return std::nullopt;
    }
    if (!has_size(fd.get(), key.size)) {
        remove_entry(layout, key, name, "its blob has the wrong size");
        return std::nullopt;
    }
    return Blob{std::move(name), std::move(fd)};
}

std::optional<Blob> open_blob(const Layout & layout, std::string_view digest, uint64_t size) {
    if (!is_digest_hex(digest)) {
        return std::nullopt;
    }
    UniqueFd fd = open_to_read(layout.blob(digest));
    if (!fd || !has_size(fd.get(), size)) {
        return std::nullopt;
    }
    return Blob{std::string(digest), std::move(fd)};
}

std::string read_index_file(const std::filesystem::path & path) {
    const UniqueFd fd = open_to_read(path);
    return fd ? read_name(fd.get()) : std::string();
}

void remove_entry(const Layout & layout, Key key, std::string_view digest, std::string_view reason) {
    const std::filesystem::path index_file = layout.index_file(key);
    log_warning("weight cache: removing {}: {}", index_file.string(), reason);
    // The index file first, so that it does not lead other processes to a missing blob.
    ::unlink(index_file.c_str());
    if (!digest.empty()) {
        ::unlink(layout.blob(digest).c_str());
    }
}

}  // namespace caravan::cache
