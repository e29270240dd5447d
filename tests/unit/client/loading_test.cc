#include "client/loading.h"

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

TEST_F(LoadingTest, IsOneLineInTheLog) {
    Loading loading("a:1", {});
    load(loading, milliseconds(600), 600 * mib, false);
    load(loading, milliseconds(400), 400 * mib, true);
    EXPECT_TRUE(logged().empty());
    loading.end();
    EXPECT_EQ(logged(), std::vector<std::string>{
                            "RPC server a:1: 1000 MiB of weights in 1.00 s (1.05 GB/s), 40 % from its cache"});
    loading.end();
    EXPECT_EQ(logged().size(), 1u) << "nothing was loaded since";
}

TEST_F(LoadingTest, EachModelHasItsLineAndTheTotalHasAll) {
    Loading loading("a:1", {});
    load(loading, milliseconds(100), mib, false);
    loading.end();
    now += seconds(50);
    load(loading, milliseconds(100), 2 * mib, true);
    loading.end();
    ASSERT_EQ(logged().size(), 2u);
    EXPECT_EQ(logged()[1], "RPC server a:1: 2 MiB of weights in 0.10 s (0.02 GB/s), 100 % from its cache");
    EXPECT_EQ(loading.total().bytes, 3 * mib);
    EXPECT_EQ(loading.total().from_cache, 2 * mib);
    EXPECT_EQ(loading.total().time, milliseconds(200));
}

TEST_F(LoadingTest, OnATerminalALineIsRewrittenFiveTimesASecond) {
    Loading loading("a:1", terminal);
    for (int i = 0; i < 990; ++i) {
        load(loading, milliseconds(1), mib, i < 50);
    }
    EXPECT_EQ(shown.size(), 4u);
    EXPECT_EQ(shown[0], "\r\033[KRPC server a:1: 200 MiB of 1000 MiB of weights, 1.05 GB/s, 25 % from its cache");
    load(loading, milliseconds(1), 10 * mib, false);
    ASSERT_EQ(shown.size(), 5u);
    EXPECT_EQ(shown[4], "\r\033[KRPC server a:1: 1000 MiB of weights in 0.99 s (1.06 GB/s), 5 % from its cache\n");
    loading.end();
    EXPECT_EQ(shown.size(), 5u);
    EXPECT_TRUE(logged().empty()) << "it was said already";
}

TEST_F(LoadingTest, WhatComesAfterTheLineWasFinishedIsInTheLog) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(300), 500 * mib, false);
    load(loading, milliseconds(10), 500 * mib, false);
    EXPECT_EQ(shown.size(), 2u);
    buffer = 2;
    load(loading, milliseconds(10), 1000 * mib, false);
    loading.end();
    EXPECT_EQ(shown.size(), 2u) << "too quick to be shown";
    EXPECT_EQ(logged(), std::vector<std::string>{"RPC server a:1: 1.9 GiB of weights in 0.32 s (6.55 GB/s)"});
}

TEST_F(LoadingTest, ALineThatIsLeftOverIsReplaced) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(300), 10 * mib, false);
    buffer = 2;
    load(loading, milliseconds(300), 10 * mib, false);
    EXPECT_EQ(shown.back(), "\r\033[KRPC server a:1: 20 MiB of 1.9 GiB of weights, 0.03 GB/s");
    loading.end();
    EXPECT_EQ(shown.back(), "\r\033[KRPC server a:1: 20 MiB of weights in 0.60 s (0.03 GB/s)\n");
}

// Weights may begin before others have ended, and a buffer may be marked as one of weights when the last one is loaded.
TEST_F(LoadingTest, TheTimeIsThatOfTheLastToEnd) {
    Loading loading("a:1", {});
    load(loading, milliseconds(600), mib, false);
    loading.add(mib, false, now - milliseconds(400));
    loading.end();
    EXPECT_EQ(logged(), std::vector<std::string>{"RPC server a:1: 2 MiB of weights in 0.60 s (0.00 GB/s)"});
}

TEST_F(LoadingTest, NothingIsLoggedOfWeightsThatWereNeverAnswered) {
    Loading loading("a:1", {});
    loading.begin(buffer, mib, now);
    loading.end();
    EXPECT_TRUE(logged().empty());
}

TEST_F(LoadingTest, AnEndpointControlsNoTerminal) {
    Loading loading("unix:/\x1b[2J", terminal);
    load(loading, milliseconds(300), mib, false);
    ASSERT_EQ(shown.size(), 1u);
    EXPECT_TRUE(shown[0].starts_with("\r\033[KRPC server unix:/?[2J: ")) << shown[0];
}

TEST_F(LoadingTest, WhatIsQuickIsNotShownOnTheWay) {
    Loading loading("a:1", terminal);
    load(loading, milliseconds(199), mib, false);
    loading.end();
    EXPECT_TRUE(shown.empty());
    EXPECT_EQ(logged().size(), 1u);
}

}  // namespace
}  // namespace caravan::client
