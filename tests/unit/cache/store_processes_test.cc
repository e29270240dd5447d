// Several processes that share a store.
#include "cache/store.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

TEST_F(CacheTest, TwoStoresShareADirectory) {
    const Store one = open();
    auto early = one.begin(3);
    ASSERT_TRUE(early);
    early->append(bytes("ab"));
    const Store two = open();  // must not remove the file of the other store's upload
    early->append(bytes("c"));
    EXPECT_TRUE(early->commit());
    EXPECT_EQ(get(two, "abc"), "abc");
    EXPECT_TRUE(put(two, "abc"));
    EXPECT_TRUE(put(two, "abcd"));
    EXPECT_EQ(get(one, "abcd"), "abcd");
}

TEST_F(CacheTest, ConcurrentProcessesShareADirectory) {
    const Store store = open();
    constexpr uint32_t rounds = 20;
    std::vector<pid_t> children;
    for (uint32_t child = 0; child < 6; ++child) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            bool good = true;
            const auto mine = Store::open(directory_);
            for (uint32_t i = 0; mine && i < rounds; ++i) {
                const std::string text = weights(100'000, i);
                good = good && put(*mine, text) && get(*mine, text) == text;
                put(*mine, child % 2 == 0 ? twin_a : twin_b);
            }
            ::_exit(mine && good ? 0 : 1);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) {
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
    }
    for (uint32_t i = 0; i < rounds; ++i) {
        EXPECT_EQ(get(store, weights(100'000, i)), weights(100'000, i));
    }
    const auto twin = get(store, twin_a);
    EXPECT_TRUE(twin == twin_a || twin == twin_b);
    EXPECT_EQ(files("index").size(), rounds + 1);
    EXPECT_EQ(files("blobs").size(), rounds + 1);
    EXPECT_TRUE(files("tmp").empty());
}

TEST_F(CacheTest, RemovesTemporaryFileOfKilledProcess) {
    open();
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
        const auto store = Store::open(directory_);
        auto writer = store->begin(3);
        writer->append(bytes("abc"));
        ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status));
    EXPECT_TRUE(files("index").empty());
    EXPECT_TRUE(files("blobs").empty());
    ASSERT_EQ(files("tmp").size(), 1U);
    const auto written = [&](std::chrono::minutes ago) {
        fs::last_write_time(ours() / "tmp" / files("tmp").front(), fs::file_time_type::clock::now() - ago);
    };
    open();
    EXPECT_EQ(files("tmp").size(), 1U) << "too recent to be abandoned";
    written(std::chrono::minutes(6));
    open();
    expect_empty();
    const Store store = open();
    auto writer = store.begin(3);
    ASSERT_TRUE(writer);
    written(std::chrono::hours(25));
    open();
    EXPECT_EQ(files("tmp").size(), 1U) << "locked, so in use";
}

}  // namespace
}  // namespace caravan::cache
