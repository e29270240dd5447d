// Write errors, full disks and read-only stores.
#include "cache/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

TEST_F(CacheTest, RemovalOfTheStoreOnlyFailsTheCommit) {
    const Store store = open();
    auto writer = store.begin(3);
    ASSERT_TRUE(writer);
    writer->append(bytes("ab"));
    fs::remove_all(ours());
    writer->append(bytes("c"));
    EXPECT_FALSE(writer->commit());
    EXPECT_EQ(warnings.size(), 1U);
    EXPECT_FALSE(store.begin(3));
    EXPECT_FALSE(store.find(hash("abc"), 3));
}

// Limits the size of files until the end of the scope.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        ::getrlimit(RLIMIT_FSIZE, &old_);
        const rlimit limit{.rlim_cur = bytes, .rlim_max = old_.rlim_max};
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    FileSizeLimit(const FileSizeLimit &) = delete;
    ~FileSizeLimit() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        std::signal(SIGXFSZ, old_handler_);
    }

private:
    void (*old_handler_)(int);
    rlimit old_{};
};

TEST_F(CacheTest, WriteErrorOnlyFailsTheCommit) {
    const Store store = open();
    const std::string text = weights(3 << 20);
    {
        const FileSizeLimit limit(1 << 20);
        auto writer = store.begin(text.size());
        ASSERT_TRUE(writer);
        for (size_t at = 0; at < text.size(); at += 100'000) {
            writer->append(bytes(std::string_view(text).substr(at, 100'000)));
        }
        EXPECT_TRUE(files("tmp").empty()) << "the disk space is freed at once";
        EXPECT_FALSE(writer->commit());
        EXPECT_FALSE(put(store, text)) << "no further attempts";
    }
    expect_empty();
    EXPECT_EQ(warnings.size(), 1U) << "one warning, not one per tensor";
    EXPECT_TRUE(put(open(), text));
    EXPECT_EQ(get(store, text), text);
}

TEST_F(CacheTest, WriteErrorOfTheIndexFileLeavesNoBlob) {
    const Store store = open();
    {
        const FileSizeLimit limit(10);  // enough for the blob, not for its index file
        EXPECT_FALSE(put(store, "abc"));
    }
    expect_empty();
    EXPECT_EQ(warnings.size(), 1U);
}

#ifdef __linux__
TEST_F(CacheTest, FullDiskOnlyFailsTheCommit) {
    const int status = on_a_small_disk(directory_, [this] {
        const Store store = *Store::open(directory_);
        const std::string small = weights(1 << 20), large = weights(3 << 20, 2);
        if (!put(store, small) || put(store, large) || put(store, "abc")) {
            return 1;
        }
        if (warnings.size() != 1 || !warnings[0].contains("No space left on device")) {
            return 2;
        }
        return files("tmp").empty() && files("index").size() == 1 && get(store, small) == small ? 0 : 3;
    });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}

TEST_F(CacheTest, ReadsFromAReadOnlyStore) {
    const int status = on_a_small_disk(directory_, [this] {
        const std::string text = weights(100'000);
        if (!put(*Store::open(directory_), text) ||
            ::mount(nullptr, directory_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
            return 1;
        }
        const auto store = Store::open(directory_, 1000);
        if (!store || !store->problem().contains("Read-only file system")) {
            return 2;
        }
        return get(*store, text) == text && !store->begin(3) && warnings.empty() ? 0 : 3;
    });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}

#endif

}  // namespace
}  // namespace caravan::cache
