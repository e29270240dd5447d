#include "client/weights/loading.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "base/log.h"

namespace caravan::client {
namespace {

constexpr uint64_t mib = 1 << 20;

std::vector<std::string> & logged() {
    static std::vector<std::string> lines;
    return lines;
}

struct LoadingTest : testing::Test {
    LoadingTest() {
        logged().clear();
        set_log_sink([](LogLevel, std::string_view line) { logged().emplace_back(line); });
    }
    ~LoadingTest() override {
        set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    }

    void load(Loading & loading, milliseconds took, uint64_t bytes, bool from_cache) {
        loading.begin(buffer, 1000 * mib, now);
        now += took;
        loading.add(bytes, from_cache, now);
    }

    TimePoint now{seconds(100)};
    uint64_t buffer = 1;
    std::vector<std::string> shown;
    Loading::Terminal terminal = [this](std::string_view text) { shown.emplace_back(text); };
};

TEST_F(LoadingTest, LogsOneLine) {
    Loading loading("a:1", {});
    load(loading, milliseconds(600), 600 * mib, false);
    load(loading, milliseconds(400), 400 * mib, true);
    EXPECT_TRUE(logged().empty());
    loading.end();
    EXPECT_EQ(logged(), std::vector<std::string>{
                            "RPC server a:1: 1000 MiB of weights in 1.00 s (1.05 GB/s), 40 % already on the server"});
    loading.end();
    EXPECT_EQ(logged().size(), 1u) << "nothing was loaded since then";
}

TEST_F(LoadingTest, EachModelHasALineAndTotalIsTheSum) {
    Loading loading("a:1", {});
    load(loading, milliseconds(100), mib, false);
    loading.end();
    now += seconds(50);
    load(loading, milliseconds(100), 2 * mib, true);
    loading.end();
    ASSERT_EQ(logged().size(), 2u);
    EXPECT_EQ(logged()[1], "RPC server a:1: 2 MiB of weights in 0.10 s (0.02 GB/s), 100 % already on the server");
    EXPECT_EQ(loading.total().bytes, 3 * mib);
    EXPECT_EQ(loading.total().from_cache, 2 * mib);
    EXPECT_EQ(loading.total().time, milliseconds(200));
}

TEST_F(LoadingTest, TerminalLineIsRedrawnFiveTimesASecond) {
    Loading loading("a:1", terminal);
    for (int i = 0; i < 990; ++i) {
        load(loading, milliseconds(1), mib, i < 50);
    }
    EXPECT_EQ(shown.size(), 4u);
    EXPECT_EQ(shown[0], "\r\033[KRPC server a:1: 200 MiB of 1000 MiB, 1.05 GB/s, 25 % already on the server");
    load(loading, milliseconds(1), 10 * mib, false);
    ASSERT_EQ(shown.size(), 5u);
    EXPECT_EQ(shown[4], "\r\033[KRPC server a:1: 1000 MiB of weights in 0.99 s (1.06 GB/s), 5 % already on the server\n");
    loading.end();
    EXPECT_EQ(shown.size(), 5u);
    EXPECT_TRUE(logged().empty()) << "the terminal has the line already";
}

TEST_F(LoadingTest, WeightsAfterTheCompletedLineAreLogged) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(300), 500 * mib, false);
    load(loading, milliseconds(10), 500 * mib, false);
    EXPECT_EQ(shown.size(), 2u);
    buffer = 2;
    load(loading, milliseconds(10), 1000 * mib, false);
    loading.end();
    EXPECT_EQ(shown.size(), 2u) << "too quick to be drawn";
    EXPECT_EQ(logged(), std::vector<std::string>{"RPC server a:1: 1.9 GiB of weights in 0.32 s (6.55 GB/s)"});
}

TEST_F(LoadingTest, OpenLineIsCompleted) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(300), 10 * mib, false);
    buffer = 2;
    load(loading, milliseconds(300), 10 * mib, false);
    EXPECT_EQ(shown.back(), "\r\033[KRPC server a:1: 20 MiB of 1.9 GiB, 0.03 GB/s");
    loading.end();
    EXPECT_EQ(shown.back(), "\r\033[KRPC server a:1: 20 MiB of weights in 0.60 s (0.03 GB/s)\n");
}

// Weights overlap in time, and a buffer may be marked as a weight buffer only after the last one was loaded.
TEST_F(LoadingTest, TimeIsThatOfTheLastWeightToFinish) {
    Loading loading("a:1", {});
    load(loading, milliseconds(600), mib, false);
    loading.add(mib, false, now - milliseconds(400));
    loading.end();
    EXPECT_EQ(logged(), std::vector<std::string>{"RPC server a:1: 2 MiB of weights in 0.60 s (0.00 GB/s)"});
}

TEST_F(LoadingTest, WeightsWithoutReplyAreNotLogged) {
    Loading loading("a:1", {});
    loading.begin(buffer, mib, now);
    loading.end();
    EXPECT_TRUE(logged().empty());
}

TEST_F(LoadingTest, EndpointIsPrintedWithoutControlCharacters) {
    Loading loading("unix:/\x1b[2J", terminal);
    load(loading, milliseconds(300), mib, false);
    ASSERT_EQ(shown.size(), 1u);
    EXPECT_TRUE(shown[0].starts_with("\r\033[KRPC server unix:/?[2J: ")) << shown[0];
}

TEST_F(LoadingTest, QuickLoadIsOnlyLogged) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(199), mib, false);
    loading.end();
    EXPECT_TRUE(shown.empty());
    EXPECT_EQ(logged().size(), 1u);
}

}  // namespace
}  // namespace caravan::client
