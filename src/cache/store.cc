#include "cache/store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <system_error>

#include "base/log.h"
#include "cache/eviction.h"
#include "cache/fnv_index.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// No upload pauses for as long between two writes.
constexpr std::chrono::hours leftover_age{24};

fs::path from_environment(const char * name) {
    const char * value = std::getenv(name);
    return value != nullptr ? fs::path(value) : fs::path();
}

void remove_leftovers(const fs::path & directory) {
    const auto limit = fs::file_time_type::clock::now() - leftover_age;
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
        std::error_code gone;  // another process may be cleaning up too
        if (at->symlink_status(gone).type() == fs::file_type::regular && at->last_write_time(gone) < limit && !gone) {
            fs::remove(at->path(), gone);
        }
    }
}

// Eviction goes by the time of modification: reading leaves no reliable trace elsewhere (noatime, relatime).
void mark_used(const Blob & blob) { ::futimens(blob.fd.get(), nullptr); }

}  // namespace

Result<fs::path> default_directory() {
    if (const fs::path llama = from_environment("LLAMA_CACHE"); !llama.empty()) {
        return llama / "rpc";
    }
    const fs::path home = from_environment("HOME");
#ifdef __APPLE__
    const fs::path cache = home.empty() ? home : home / "Library" / "Caches";
#else
    fs::path cache = from_environment("XDG_CACHE_HOME");
    if (cache.empty() && !home.empty()) {
        cache = home / ".cache";
    }
#endif
    if (cache.empty()) {
        return fail(Errc::not_found, "weight cache: no directory for it: set LLAMA_CACHE or HOME");
    }
    return cache / "llama.cpp" / "rpc";
}

uint64_t default_limit(const fs::path & directory) {
    std::error_code error;
    fs::path existing = fs::absolute(directory, error);
    while (existing.has_relative_path() && !fs::exists(existing, error)) {
        existing = existing.parent_path();
    }
    const fs::space_info space = fs::space(existing, error);
    return error ? 0 : space.capacity / 4;
}

Result<Store> Store::open(const fs::path & directory, uint64_t max_bytes) {
    auto layout = make_root(directory);
    if (!layout) {
        return std::unexpected(layout.error());
    }
    for (const fs::path & ours : {layout->blobs(), layout->index(), layout->temporary()}) {
        if (const auto made = make_private(ours); !made) {
            return std::unexpected(made.error());
        }
    }
    remove_leftovers(layout->temporary());
    if (max_bytes != 0) {
        make_room(*layout, max_bytes, 0);
    }
    return Store(std::make_shared<StoreState>(std::move(*layout), max_bytes));
}

std::optional<Reader> Store::find(uint64_t fnv, uint64_t size) const {
    const Key key{fnv, size};
    auto blob = open_blob(state_->layout, key);
    if (!blob) {
        std::lock_guard lock(state_->mutex);
        if (state_->entered.insert(size).second) {
            enter_blobs(state_->layout, size);
        }
        blob = open_blob(state_->layout, key);
    }
    if (!blob) {
        return std::nullopt;
    }
    mark_used(*blob);
    const std::string name = blob->digest;
    return Reader({.fd = std::move(blob->fd),
                   .path = state_->layout.blob(name),
                   .size = size,
                   .digest = name,
                   .is_sealed = state_->is_sealed,
                   .fnv = fnv},
                  [layout = state_->layout, key, name](Damage damage, std::string_view reason) {
                      remove_entry(layout, key, damage == Damage::bytes ? name : std::string(), reason);
                  });
}

std::optional<Reader> Store::find_digest(std::string_view hex, uint64_t size) const {
    auto blob = open_blob(state_->layout, hex, size);
    if (!blob) {
        return std::nullopt;
    }
    mark_used(*blob);
    const fs::path path = state_->layout.blob(hex);
    return Reader({.fd = std::move(blob->fd),
                   .path = path,
                   .size = size,
                   .digest = std::string(hex),
                   .is_sealed = state_->is_sealed},
                  [path](Damage, std::string_view reason) {
                      // Its index file goes when somebody asks for it next.
                      log_warning("weight cache: {} is dropped: {}", path.string(), reason);
                      ::unlink(path.c_str());
                  });
}

std::optional<Writer> Store::begin(uint64_t size, Keys keys) const {
    const uint64_t limit = state_->max_bytes;
    if (state_->failed || (limit != 0 && size > limit)) {
        return std::nullopt;
    }
    if (limit != 0) {
        make_room(state_->layout, limit, size);
    }
    auto file = TemporaryFile::create(state_->layout.temporary());
    if (!file) {
        state_->failed = true;
        log_warning("weight cache: nothing more is kept in this session: {}", file.error().text);
        return std::nullopt;
    }
    return Writer(state_, size, keys, std::move(*file));
}

}  // namespace caravan::cache
