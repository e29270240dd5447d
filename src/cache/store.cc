#include "cache/store.h"

#include <chrono>
#include <system_error>

#include "base/environment.h"
#include "base/log.h"
#include "cache/eviction.h"
#include "cache/fnv_index.h"
#include "platform/file.h"
#include "tunables/cache.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

bool is_in_use(const fs::path & path, fs::file_time_type::duration age) {
    const auto fd = platform::open_to_read(path, platform::Links::refuse_last);
    switch (fd ? platform::try_lock(fd->get(), platform::Lock::exclusive) : platform::Locked::unsupported) {
        case platform::Locked::yes: return age < tunable::abandoned_upload_age;
        case platform::Locked::busy: return true;
        case platform::Locked::unsupported: break;
    }
    return age < tunable::abandoned_upload_age_without_locks;
}

void remove_abandoned_files(const fs::path & directory) {
    const auto now = fs::file_time_type::clock::now();
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
        std::error_code gone;  // another process may be removing it, too
        const bool is_file = at->symlink_status(gone).type() == fs::file_type::regular;
        const auto written = at->last_write_time(gone);
        if (is_file && !gone && !is_in_use(at->path(), now - written)) {
            fs::remove(at->path(), gone);
        }
    }
}

// Eviction uses modification times, since access times are unreliable (noatime, relatime). If the disk takes no file, only the
// order of eviction suffers.
void mark_used(const Layout & layout, std::string_view digest) {
    if (auto file = TemporaryFile::create(layout.temporary())) {
        (void)file->close().and_then([&] { return file->move_over(layout.used() / digest); });
    }
}

}  // namespace

Result<fs::path> default_directory() {
    if (const fs::path llama = text_of(variable::llama_cache); !llama.empty()) {
        return llama / "rpc";
    }
    const fs::path home = text_of(variable::home);
#ifdef __APPLE__
    const fs::path cache = home.empty() ? home : home / "Library" / "Caches";
#else
    fs::path cache = text_of(variable::cache_home);
    if (cache.empty() && !home.empty()) {
        cache = home / ".cache";
    }
#endif
    if (cache.empty()) {
        return fail(Errc::not_found, "weight cache: no directory is configured: set LLAMA_CACHE or HOME");
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
    auto state = std::make_shared<StoreState>(layout_in(directory), max_bytes);
    const Layout & layout = state->layout;
    auto made = make_root(directory).transform([](const Layout &) {});
    for (const fs::path & ours : {layout.blobs(), layout.index(), layout.used(), layout.temporary()}) {
        made = made ? make_private(ours) : made;
    }
    if (made) {
        remove_abandoned_files(layout.temporary());
        remove_foreign_files(layout);
        if (max_bytes != 0) {
            evict_to_fit(layout, max_bytes, 0);
        }
    } else if (platform::may_list(layout.blobs()) && platform::may_list(layout.index())) {
        state->problem = std::move(made.error().text);
        state->failed = true;
    } else {
        return std::unexpected(made.error());
    }
    return Store(std::move(state));
}

std::optional<Reader> Store::find(uint64_t fnv, uint64_t size) const {
    const Key key{fnv, size};
    auto blob = open_blob(state_->layout, key);
    if (!blob) {
        std::lock_guard lock(state_->mutex);
        if (state_->indexed_sizes.insert(size).second) {
            index_blobs(state_->layout, size);
        }
        blob = open_blob(state_->layout, key);
    }
    if (!blob) {
        return std::nullopt;
    }
    mark_used(state_->layout, blob->digest);
    const std::string name = blob->digest;
    state_->note_used(name, size);
    return Reader({.fd = std::move(blob->fd),
                   .path = state_->layout.blob(name),
                   .rows = Rows::contiguous(0, size),
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
    mark_used(state_->layout, hex);
    state_->note_used(hex, size);
    const fs::path path = state_->layout.blob(hex);
    return Reader({.fd = std::move(blob->fd),
                   .path = path,
                   .rows = Rows::contiguous(0, size),
                   .digest = std::string(hex),
                   .is_sealed = state_->is_sealed},
                  [path](Damage, std::string_view reason) {
                      // The next lookup by FNV-1a removes its index file.
                      log_warning("weight cache: removing {}: {}", path.string(), reason);
                      platform::remove_name(path);
                  });
}

std::optional<Writer> Store::begin(uint64_t size, Keys keys) const {
    const uint64_t limit = state_->max_bytes;
    if (!state_->failed && limit != 0 && size > limit) {
        state_->note_used("", size);
        return std::nullopt;
    }
    if (state_->failed) {
        return std::nullopt;
    }
    auto file = TemporaryFile::create(state_->layout.temporary());
    if (!file) {
        state_->failed = true;
        log_warning("weight cache: this session stores no more weights: {}", file.error().text);
        return std::nullopt;
    }
    return Writer(state_, size, keys, std::move(*file));
}

}  // namespace caravan::cache
