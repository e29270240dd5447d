// A weight store in a temporary directory, for tests of src/cache.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#ifdef __linux__
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#endif
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/formatted.h"
#include "base/log.h"
#include "cache/store.h"
#include "wire/stock.h"

namespace caravan::cache::store_fixture {

namespace fs = std::filesystem;

namespace fs = std::filesystem;

// Two texts of the same length and FNV-1a, found by lattice reduction.
inline constexpr std::string_view twin_a(
    "\xd8\x39\x30\x3f\x1e\x20\x54\x1a\x7c\x19\x1a\xce\x6f\x0d\x0e\x6b\x37\xd8\x5a\x97\x40\x19\x0b\xa0", 24);
inline constexpr std::string_view twin_b(
    "\xd8\x38\x53\x78\x06\x61\x2c\x0f\x69\x09\x29\xc6\x14\x07\x07\x5f\x1f\x28\x48\xec\x43\x38\x1a\xa3", 24);

inline std::mutex log_mutex;
inline std::vector<std::string> warnings;

inline ConstBytes bytes(std::string_view text) { return const_bytes(text.data(), text.size()); }
inline uint64_t hash(std::string_view text) { return wire::fnv1a(bytes(text)); }

// Pseudo-random bytes: no two chunks are equal.
inline std::string weights(size_t size, uint32_t seed = 1) {
    std::string text(size, '\0');
    for (char & c : text) {
        seed = seed * 1664525 + 1013904223;
        c = static_cast<char>(seed >> 24);
    }
    return text;
}

inline bool put(const Store & store, std::string_view text, Keys keys = Keys::digest_and_fnv) {
    auto writer = store.begin(text.size(), keys);
    if (!writer) {
        return false;
    }
    // In pieces of uneven size, as they arrive from a socket.
    for (size_t at = 0, piece = 1; at < text.size(); at += piece, piece = piece * 3 + 1) {
        writer->append(bytes(text.substr(at, piece)));
    }
    return writer->commit();
}

// The verified content; std::nullopt if it is not found or fails verification.
inline std::optional<std::string> get(const Store & store, uint64_t fnv, uint64_t size) {
    auto reader = store.find(fnv, size);
    if (!reader) {
        return std::nullopt;
    }
    std::string text(size, '\0');
    size_t at = 0;
    for (;;) {
        const auto got = reader->read(mutable_bytes(text.data() + at, text.size() - at));
        if (!got || *got == 0) {
            break;
        }
        at += *got;
    }
    return reader->verify() ? std::optional(text) : std::nullopt;
}

inline std::optional<std::string> get(const Store & store, std::string_view text) {
    return get(store, hash(text), text.size());
}

inline std::string contents(const fs::path & path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void overwrite(const fs::path & path, std::string_view text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    ASSERT_TRUE(file.flush());
}

inline mode_t mode_of(const fs::path & path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
}

class CacheTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "caravan-cache-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        warnings.clear();
        set_log_sink([](LogLevel level, std::string_view line) {
            const std::lock_guard lock(log_mutex);
            if (level == LogLevel::warning) {
                warnings.emplace_back(line);
            }
        });
    }

    void TearDown() override {
        std::error_code error;
        fs::remove_all(directory_, error);
        EXPECT_FALSE(error);
    }

    Store open(uint64_t max_bytes = 0) const {
        auto store = Store::open(directory_, max_bytes);
        EXPECT_TRUE(store) << store.error().text;
        return std::move(*store);
    }

    fs::path ours() const { return directory_ / "caravan"; }
    fs::path index_file(std::string_view text) const {
        return ours() / "index" / formatted("{:016x}-{}", hash(text), text.size());
    }
    fs::path blob(std::string_view text) const {
        std::string name = contents(index_file(text));
        name.pop_back();
        return ours() / "blobs" / name;
    }

    // Sets the time of the last use to `minutes` ago.
    void age(std::string_view text, int minutes) const {
        const auto when = fs::file_time_type::clock::now() - std::chrono::minutes(minutes);
        fs::last_write_time(blob(text), when);
        if (const fs::path used = ours() / "used" / blob(text).filename(); fs::exists(used)) {
            fs::last_write_time(used, when);
        }
    }

    // The names of all files in `folder` of the store.
    std::vector<std::string> files(const char * folder) const {
        std::vector<std::string> names;
        for (const auto & entry : fs::directory_iterator(ours() / folder)) {
            names.push_back(entry.path().filename().string());
        }
        return names;
    }

    void expect_empty() const {
        EXPECT_EQ(files("index"), std::vector<std::string>());
        EXPECT_EQ(files("blobs"), std::vector<std::string>());
        EXPECT_EQ(files("tmp"), std::vector<std::string>());
    }

    fs::path directory_;
};

#ifdef __linux__
// Runs `check` in a child process with a private file system of 2 MiB mounted at `directory`. Returns what `check` returns,
// or `no_mount` if mounting is not permitted.
inline constexpr int no_mount = 77;
template <class Check>
int on_a_small_disk(const fs::path & directory, Check check) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        const auto map = [](const char * file, std::string_view text) { std::ofstream(file) << text; };
        const uid_t user = ::geteuid();
        const gid_t group = ::getegid();
        if (::unshare(CLONE_NEWNS) != 0) {
            if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
                ::_exit(no_mount);
            }
            map("/proc/self/uid_map", formatted("0 {} 1", user));
            map("/proc/self/setgroups", "deny");
            map("/proc/self/gid_map", formatted("0 {} 1", group));
        }
        if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=2m,mode=0777") != 0) {
            ::_exit(no_mount);
        }
        ::_exit(check());
    }
    int status = -1;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
}
#endif

}  // namespace caravan::cache::store_fixture
