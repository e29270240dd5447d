#include "cache/eviction.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "cache/digest.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

struct File {
    std::pair<int64_t, int64_t> used;  // modification time: seconds and nanoseconds
    uint64_t size;
    std::string name;
};

// Skips files that vanish meanwhile: another process may be evicting, too.
std::vector<File> regular_files(const fs::path & directory) {
    std::vector<File> files;
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
        struct stat status;
        if (::lstat(at->path().c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
#ifdef __APPLE__
            const timespec & used = status.st_mtimespec;
#else
            const timespec & used = status.st_mtim;
#endif
            files.push_back({{used.tv_sec, used.tv_nsec},
                             static_cast<uint64_t>(status.st_size),
                             at->path().filename().string()});
        }
    }
    return files;
}

uint64_t total(const std::vector<File> & files) {
    uint64_t bytes = 0;
    for (const File & file : files) {
        bytes += file.size;
    }
    return bytes;
}

// Locks the blob, and returns std::nullopt if a process has mapped it. The descriptor is invalid if the blob cannot be
// opened. On a file system without locks, no blob counts as mapped.
std::optional<UniqueFd> lock_unless_mapped(const fs::path & blob) {
    UniqueFd fd(::open(blob.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return std::nullopt;
    }
    return fd;
}

}  // namespace

std::optional<uint64_t> evict_to_fit(const Layout & layout, uint64_t max_bytes, uint64_t needed) {
    std::vector<File> blobs = regular_files(layout.blobs());
    uint64_t stored = total(blobs) + total(regular_files(layout.temporary()));
    const auto fits = [&] { return needed <= max_bytes && stored <= max_bytes - needed; };
    std::unordered_set<std::string> victims;
    if (!fits()) {
        std::ranges::sort(blobs, {}, &File::used);
        for (const File & blob : blobs) {
            if (fits()) {
                break;
            }
            if (!is_mapped(layout.blob(blob.name))) {
                stored -= blob.size;
                victims.insert(blob.name);
            }
        }
    }
    const bool done = fits();
    if (victims.empty() || (!done && needed > 0)) {
        return done ? std::optional(max_bytes - needed - stored) : std::nullopt;
    }
    // The index file first, so that it does not lead other processes to a missing blob.
    for (const File & entry : regular_files(layout.index())) {
        const fs::path path = layout.index() / entry.name;
        if (victims.contains(read_index_file(path))) {
            ::unlink(path.c_str());
        }
    }
    for (const std::string & name : victims) {
        if (const auto lock = lock_unless_mapped(layout.blob(name))) {
            ::unlink(layout.blob(name).c_str());
        }
    }
    log_debug("weight cache: evicted entries: {}", victims.size());
    return done ? std::optional(max_bytes - needed - stored) : std::nullopt;
}

void remove_foreign_files(const Layout & layout) {
    for (const File & file : regular_files(layout.blobs())) {
        if (!is_digest_hex(file.name)) {
            ::unlink((layout.blobs() / file.name).c_str());
        }
    }
    for (const File & file : regular_files(layout.index())) {
        if (file.size != digest_hex_length + 1) {
            ::unlink((layout.index() / file.name).c_str());
        }
    }
}

bool is_mapped(const fs::path & blob) { return !lock_unless_mapped(blob); }

}  // namespace caravan::cache
