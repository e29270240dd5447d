// The limit of a store, and which blobs it evicts.
#include "cache/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

#ifdef __linux__

TEST_F(CacheTest, DefaultLimitIsAQuarterOfTheDisk) {
    const int status = on_a_small_disk(
        directory_, [this] { return default_limit(directory_ / "not" / "there" / "yet") == 512 << 10 ? 0 : 1; });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}
#endif

TEST_F(CacheTest, EvictsTheLeastRecentlyUsedBlob) {
    const Store store = open(10'000);
    const std::string a = weights(4000, 1), b = weights(4000, 2), c = weights(4000, 3), d = weights(4000, 4);
    ASSERT_TRUE(put(store, a));
    ASSERT_TRUE(put(store, b));
    age(a, 20);
    age(b, 10);
    ASSERT_EQ(get(store, a), a);  // counts as a use
    ASSERT_TRUE(put(store, c));
    EXPECT_EQ(get(store, a), a);
    EXPECT_EQ(get(store, b), std::nullopt);
    age(a, 20);
    age(c, 10);
    ASSERT_TRUE(store.find_digest(blob(a).filename().string(), 4000));  // counts as a use
    ASSERT_TRUE(put(store, d));
    EXPECT_EQ(get(store, a), a);
    EXPECT_EQ(get(store, c), std::nullopt);
    EXPECT_EQ(get(store, d), d);
    EXPECT_EQ(files("index").size(), 2U);
    EXPECT_EQ(files("blobs").size(), 2U);
    EXPECT_EQ(files("used").size(), 2U);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings.front().contains("do not fit into 9.7 KiB")) << warnings.front();
}

// A message of 314 bytes can announce an upload of any size.
TEST_F(CacheTest, EvictsForArrivedNotAnnouncedBytes) {
    constexpr uint64_t mib = 1 << 20;
    const Store store = open(20 * mib);
    for (uint32_t seed = 1; seed <= 5; ++seed) {
        ASSERT_TRUE(put(store, weights(4 * mib, seed)));
        age(weights(4 * mib, seed), 10 - static_cast<int>(seed));
    }
    auto writer = store.begin(19 * mib);
    ASSERT_TRUE(writer);
    EXPECT_EQ(files("blobs").size(), 5U) << "no bytes have arrived";
    writer->append(bytes(weights(mib, 6)));
    EXPECT_EQ(files("blobs").size(), 4U);
    EXPECT_EQ(get(store, weights(4 * mib, 1)), std::nullopt) << "the least recently used blob";
    writer->append(bytes(weights(5 * mib, 7)));
    EXPECT_GE(files("blobs").size(), 2U) << "at most twice the arrived bytes";
    writer->append(bytes(weights(13 * mib, 8)));
    EXPECT_TRUE(writer->commit());
    EXPECT_EQ(files("blobs").size(), 1U);
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(warnings.size(), 1U) << "the blobs stored exceed the limit in total";
}

TEST_F(CacheTest, RemovesForeignFiles) {
    ASSERT_TRUE(put(open(), weights(4000)));
    overwrite(ours() / "blobs" / "foreign", weights(9000, 2));
    overwrite(ours() / "index" / "0000000000000000-5", weights(9000, 3));
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(5000, 4)));
    EXPECT_EQ(get(store, weights(4000)), weights(4000)) << "both fit";
    EXPECT_EQ(files("blobs").size(), 2U);
    EXPECT_EQ(files("index").size(), 2U);
}

TEST_F(CacheTest, RemovesFilesWithoutABlob) {
    const std::string kept = weights(4000), other(64, 'a');
    ASSERT_TRUE(put(open(), kept));
    ASSERT_EQ(get(open(), kept), kept);
    const std::string digest = blob(kept).filename();
    overwrite(ours() / "blobs" / other, "");
    overwrite(ours() / "index" / "0000000000000001-4000", other + "\n");
    overwrite(ours() / "index" / "name", digest + "\n");
    overwrite(ours() / "used" / other, "");
    const Store store = open();
    EXPECT_EQ(files("blobs"), std::vector{digest});
    EXPECT_EQ(files("used"), std::vector{digest});
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(get(store, kept), kept);
    for (const char * forged : {"0000000000000001-4000", "0000000000000002-4000"}) {
        overwrite(ours() / "index" / forged, digest + "\n");
    }
    const Store later = open();
    EXPECT_TRUE(files("index").empty()) << "one content has one hash";
    EXPECT_EQ(get(later, kept), kept) << "which is found again";
    EXPECT_EQ(files("index").size(), 1U);
}

#ifdef __linux__
TEST_F(CacheTest, CountsBlocksBeyondTheEndOfAFile) {
    constexpr uint64_t mib = 1 << 20;
    ASSERT_TRUE(put(open(), weights(4000)));
    const fs::path planted = ours() / "blobs" / std::string(64, 'a');
    overwrite(planted, "a");
    const UniqueFd fd(::open(planted.c_str(), O_WRONLY));
    if (::fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 8 * mib) != 0) {
        GTEST_SKIP() << "this file system cannot";
    }
    fs::last_write_time(planted, fs::file_time_type::clock::now() - std::chrono::minutes(10));
    const Store store = open(4 * mib);
    EXPECT_FALSE(fs::exists(planted));
    EXPECT_EQ(get(store, weights(4000)), weights(4000));
}

TEST_F(CacheTest, ReplacesABlobThatIsBeingEvicted) {
    const std::string text = weights(4000);
    const Store store = open();
    ASSERT_TRUE(put(store, text));
    overwrite(blob(text), "damaged");
    const UniqueFd locked(::open(blob(text).c_str(), O_RDONLY));
    ASSERT_EQ(::flock(locked.get(), LOCK_EX | LOCK_NB), 0);
    ASSERT_TRUE(put(store, text));
    EXPECT_EQ(contents(blob(text)), text);
}
#endif

TEST_F(CacheTest, UploadThatCannotFitEvictsNothing) {
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(2000)));
    auto one = store.begin(6000), other = store.begin(6000), third = store.begin(6000);
    ASSERT_TRUE(one && other && third);
    one->append(bytes(weights(5000, 2)));
    for (Writer * late : {&*other, &*third}) {
        late->append(bytes(weights(6000, 3)));
        EXPECT_FALSE(late->commit());
    }
    EXPECT_EQ(warnings.size(), 1U) << "one warning, not one per tensor";
    EXPECT_EQ(get(store, weights(2000)), weights(2000));
    EXPECT_EQ(files("tmp").size(), 1U);
    one->append(bytes(weights(1000, 4)));
    EXPECT_TRUE(one->commit());
}

TEST_F(CacheTest, BlobLargerThanTheLimitEvictsNothing) {
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(10'000)));
    EXPECT_FALSE(store.begin(10'001));
    EXPECT_EQ(get(store, weights(10'000)), weights(10'000));
    EXPECT_EQ(warnings.size(), 1U) << "the blob alone exceeds the limit";
}

TEST_F(CacheTest, WarnsOnceIfTheWeightsExceedTheLimit) {
    const Store store = open(25);
    for (const char * text : {"0123456789", "abcdefghij", "0123456789"}) {
        ASSERT_TRUE(put(store, text));
    }
    EXPECT_TRUE(get(store, "abcdefghij"));
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    for (const char * text : {"ABCDEFGHIJ", "KLMNOPQRST"}) {
        ASSERT_TRUE(put(store, text));
    }
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_TRUE(warnings.front().contains("do not fit into 25 bytes")) << warnings.front();
    EXPECT_TRUE(warnings.front().contains("--cache-size")) << warnings.front();
}

TEST_F(CacheTest, CountsFoundWeightsOfEarlierSessions) {
    ASSERT_TRUE(put(open(25), "0123456789"));
    const Store later = open(25);
    ASSERT_TRUE(put(later, "abcdefghij"));
    EXPECT_TRUE(get(later, "0123456789"));
    EXPECT_TRUE(warnings.empty());
    ASSERT_TRUE(put(later, "ABCDEFGHIJ"));
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_FALSE(open(25).begin(26));
    EXPECT_EQ(warnings.size(), 2u) << "a single tensor exceeds the limit";
}

TEST_F(CacheTest, OpeningWithASmallerLimitEvicts) {
    {
        const Store store = open();
        for (const uint32_t seed : {1, 2, 3}) {
            ASSERT_TRUE(put(store, weights(4000, seed)));
            age(weights(4000, seed), 10 - static_cast<int>(seed));
        }
    }
    const Store store = open(5000);
    EXPECT_EQ(files("blobs").size(), 1U);
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(get(store, weights(4000, 3)), weights(4000, 3));
}

TEST_F(CacheTest, EvictedBlobCanBeReadToTheEnd) {
    const Store store = open(10'000);
    const std::string text = weights(6000);
    ASSERT_TRUE(put(store, text));
    auto reader = store.find(hash(text), text.size());
    ASSERT_TRUE(reader);
    ASSERT_TRUE(put(store, weights(6000, 2)));
    EXPECT_FALSE(store.find(hash(text), text.size()));
    std::string to(text.size(), '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), to.size());
    EXPECT_TRUE(reader->verify());
    EXPECT_EQ(to, text);
}

TEST_F(CacheTest, ConcurrentUploadsEndBelowTheLimit) {
    const Store store = open(10'000);
    auto one = store.begin(4000), other = store.begin(4000);
    ASSERT_TRUE(one && other);
    ASSERT_TRUE(put(store, weights(6000, 3)));
    one->append(bytes(weights(4000, 1)));
    other->append(bytes(weights(4000, 2)));
    EXPECT_TRUE(one->commit());
    EXPECT_TRUE(other->commit());
    EXPECT_EQ(files("blobs").size(), 2U);
}

TEST_F(CacheTest, ConcurrentProcessesStayBelowTheLimit) {
    constexpr uint64_t limit = 500'000;
    open(limit);
    std::vector<pid_t> children;
    for (uint32_t child = 0; child < 4; ++child) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            const auto mine = Store::open(directory_, limit);
            for (uint32_t i = 0; i < 50; ++i) {
                const std::string text = weights(100'000, i * (child + 1) % 20);
                put(*mine, text);
                if (const auto back = get(*mine, text); back && back != text) {
                    ::_exit(1);
                }
            }
            ::_exit(0);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) {
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
    }
    EXPECT_LE(files("blobs").size(), 5U);
    EXPECT_GE(files("blobs").size(), 1U);
    EXPECT_TRUE(files("tmp").empty());
}

}  // namespace
}  // namespace caravan::cache
