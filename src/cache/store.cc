#include "cache/store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <system_error>

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// No upload pauses for as long between two writes.
constexpr std::chrono::hours leftover_age{24};

fs::path from_environment(const char * name) {
    const char * value = std::getenv(name);
    return value != nullptr ? fs::path(value) : fs::path();
}

Result<> make_writable(const fs::path & directory) {
    std::error_code error;
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
        error.assign(errno, std::generic_category());
    } else if (!fs::is_directory(directory, error) && !error) {
        error = std::make_error_code(std::errc::not_a_directory);
    } else if (!error && ::access(directory.c_str(), R_OK | W_OK | X_OK) != 0) {
        error.assign(errno, std::generic_category());
    }
    if (error) {
        return fail(Errc::io, "weight cache: cannot make or write the directory {}: {}", directory.string(),
                    error.message());
    }
    return {};
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

Result<Store> Store::open(const fs::path & directory) {
    std::error_code error;
    fs::create_directories(directory, error);  // shared with others: their usual mode
    if (error) {
        return fail(Errc::io, "weight cache: cannot make the directory {}: {}", directory.string(), error.message());
    }
    Layout layout{directory / "caravan"};
    for (const fs::path & ours : {layout.root, layout.blobs(), layout.index(), layout.temporary()}) {
        if (const auto made = make_writable(ours); !made) {
            return std::unexpected(made.error());
        }
    }
    remove_leftovers(layout.temporary());
    return Store(std::move(layout));
}

std::optional<Reader> Store::find(uint64_t fnv, uint64_t size) const {
    const Key key{fnv, size};
    auto blob = open_blob(layout_, key);
    if (!blob) {
        return std::nullopt;
    }
    return Reader(layout_, key, std::move(*blob));
}

Result<Writer> Store::begin(uint64_t size) const {
    auto file = TemporaryFile::create(layout_.temporary());
    if (!file) {
        return fail(file.error().code, "weight cache: {}", file.error().text);
    }
    return Writer(layout_, size, std::move(*file));
}

}  // namespace caravan::cache
