#include "cache/eviction.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "cache/digest.h"
#include "platform/unique_fd.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// File systems allocate up to this many bytes more than a file has.
constexpr uint64_t usual_slack = 64 << 10;

struct File {
    std::pair<int64_t, int64_t> used;  // modification time: seconds and nanoseconds
    uint64_t size, room;               // bytes: its length; its share of the limit
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
            // Blocks that fallocate() added beyond the end count, the unused part of the last block does not.
            const auto size = static_cast<uint64_t>(status.st_size);
            const uint64_t on_disk = static_cast<uint64_t>(status.st_blocks) * 512;
            files.push_back({{used.tv_sec, used.tv_nsec},
                             size,
                             on_disk > size + usual_slack ? on_disk : size,
                             at->path().filename().string()});
        }
    }
    return files;
}

uint64_t total(const std::vector<File> & files) {
    uint64_t bytes = 0;
    for (const File & file : files) {
        bytes += file.room;
    }
    return bytes;
}

// Sets the time of each blob's last use from its file in used/, if that is later than the time when it was stored.
void note_use(std::vector<File> & blobs, const std::vector<File> & used) {
    std::unordered_map<std::string_view, File *> by_name;
    for (File & blob : blobs) {
        by_name.emplace(blob.name, &blob);
    }
    for (const File & file : used) {
        if (const auto blob = by_name.find(file.name); blob != by_name.end()) {
            blob->second->used = std::max(blob->second->used, file.used);
        }
    }
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
        note_use(blobs, regular_files(layout.used()));
        std::ranges::sort(blobs, {}, &File::used);
        for (const File & blob : blobs) {
            if (fits()) {
                break;
            }
            if (!is_mapped(layout.blob(blob.name))) {
                stored -= blob.room;
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
            ::unlink((layout.used() / name).c_str());
            ::unlink(layout.blob(name).c_str());
        }
    }
    log_debug("weight cache: evicted entries: {}", victims.size());
    return done ? std::optional(max_bytes - needed - stored) : std::nullopt;
}

void remove_foreign_files(const Layout & layout) {
    // Listed before the blobs: a process creates them after the blob.
    const std::vector<File> entries = regular_files(layout.index()), used = regular_files(layout.used());
    std::unordered_map<std::string, uint64_t> blobs;  // sizes
    for (const File & file : regular_files(layout.blobs())) {
        if (is_digest_hex(file.name) && file.size > 0) {
            blobs.emplace(file.name, file.size);
        } else {
            ::unlink((layout.blobs() / file.name).c_str());
        }
    }
    std::unordered_map<std::string, std::vector<std::string>> leading_to;  // by the blob: names of index files
    for (const File & file : entries) {
        const std::string digest = file.size == digest_hex_length + 1 ? read_index_file(layout.index() / file.name) : "";
        const auto blob = blobs.find(digest);
        if (blob != blobs.end() && file.name.ends_with(formatted("-{}", blob->second))) {
            leading_to[digest].push_back(file.name);
        } else {
            ::unlink((layout.index() / file.name).c_str());
        }
    }
    // A blob has one FNV-1a hash. It is computed again when a client asks for it (fnv_index.h).
    for (const auto & [digest, names] : leading_to) {
        for (const std::string & name : names.size() > 1 ? names : std::vector<std::string>()) {
            ::unlink((layout.index() / name).c_str());
        }
    }
    for (const File & file : used) {
        if (!blobs.contains(file.name) || file.size > 0) {
            ::unlink((layout.used() / file.name).c_str());
        }
    }
}

// An exclusive lock is that of another process in evict_to_fit(), which is about to remove the blob.
bool is_mapped(const fs::path & blob) {
    const UniqueFd fd(::open(blob.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    return fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK &&
           ::flock(fd.get(), LOCK_SH | LOCK_NB) == 0;
}

}  // namespace caravan::cache
