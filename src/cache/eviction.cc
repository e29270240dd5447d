#include "cache/eviction.h"

#include <algorithm>
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
#include "platform/file.h"
#include "tunables/cache.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

struct File {
    int64_t used;         // modification time, ns since 1970
    uint64_t size, room;  // bytes: its length; its share of the limit
    std::string name;
};

// Skips files that vanish meanwhile: another process may be evicting, too.
std::vector<File> regular_files(const fs::path & directory) {
    std::vector<File> files;
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
        if (const auto status = platform::status_of_name(at->path()); status && status->is_regular) {
            // Blocks that fallocate() added beyond the end count, the unused part of the last block does not.
            files.push_back({status->modified_ns, status->size,
                             status->allocated > status->size + tunable::allocation_slack ? status->allocated : status->size,
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
    auto fd = platform::open_to_read(blob, platform::Links::refuse_last);
    if (!fd) {
        return UniqueFd();
    }
    return platform::try_lock(fd->get(), platform::Lock::exclusive) == platform::Locked::busy ? std::nullopt
                                                                                              : std::optional(std::move(*fd));
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
            platform::remove_name(path);
        }
    }
    for (const std::string & name : victims) {
        if (const auto lock = lock_unless_mapped(layout.blob(name))) {
            platform::remove_name(layout.used() / name);
            platform::remove_name(layout.blob(name));
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
            platform::remove_name(layout.blobs() / file.name);
        }
    }
    std::unordered_map<std::string, std::vector<std::string>> leading_to;  // by the blob: names of index files
    for (const File & file : entries) {
        const std::string digest = file.size == digest_hex_length + 1 ? read_index_file(layout.index() / file.name) : "";
        const auto blob = blobs.find(digest);
        if (blob != blobs.end() && file.name.ends_with(formatted("-{}", blob->second))) {
            leading_to[digest].push_back(file.name);
        } else {
            platform::remove_name(layout.index() / file.name);
        }
    }
    // A blob has one FNV-1a hash. It is computed again when a client asks for it (fnv_index.h).
    for (const auto & [digest, names] : leading_to) {
        for (const std::string & name : names.size() > 1 ? names : std::vector<std::string>()) {
            platform::remove_name(layout.index() / name);
        }
    }
    for (const File & file : used) {
        if (!blobs.contains(file.name) || file.size > 0) {
            platform::remove_name(layout.used() / file.name);
        }
    }
}

// An exclusive lock is that of another process in evict_to_fit(), which is about to remove the blob.
bool is_mapped(const fs::path & blob) {
    const auto fd = platform::open_to_read(blob, platform::Links::refuse_last);
    return fd && platform::try_lock(fd->get(), platform::Lock::exclusive) == platform::Locked::busy &&
           platform::try_lock(fd->get(), platform::Lock::shared) == platform::Locked::yes;
}

}  // namespace caravan::cache
