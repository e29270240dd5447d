#include "net/polling.h"

#include <gtest/gtest.h>

namespace caravan::net {
namespace {

constexpr microseconds limit = tunable::poll_limit, start = tunable::poll_start;

Polling after(std::initializer_list<microseconds> waits) {
    Polling polling;
    for (const microseconds waited : waits) {
        polling.record(waited);
    }
    return polling;
}

TEST(Polling, AFixedTimeStays) {
    Polling polling(microseconds(7));
    for (int i = 0; i < 20; ++i) {
        polling.record(seconds(1));
    }
    EXPECT_EQ(polling.time(), microseconds(7));
    EXPECT_EQ(polling.time_inside(), microseconds(7));
}

TEST(Polling, BeginsWithAShortTime) {
    EXPECT_EQ(Polling().time(), start);
    EXPECT_EQ(after({microseconds(200)}).time(), start) << "one wait is not a habit";
    EXPECT_EQ(Polling().time_inside(), start);
}

TEST(Polling, PollsSlightlyLongerThanUsual) {
    const auto time = after({microseconds(100), microseconds(80), microseconds(100), microseconds(90)}).time();
    EXPECT_GT(time, microseconds(100));
    EXPECT_LT(time, microseconds(150));
}

TEST(Polling, PollsNoLongerThanTheLimit) {
    EXPECT_EQ(after({limit, limit, limit, limit}).time(), limit);
}

TEST(Polling, DoesNotPollInVain) {
    const microseconds longer = limit + microseconds(1);
    EXPECT_EQ(after({longer, longer, longer, longer}).time(), tunable::poll_once);
    EXPECT_EQ(after({microseconds(10), longer, longer, longer}).time(), tunable::poll_once);
    EXPECT_GT(after({microseconds(10), longer, microseconds(10), longer}).time(), microseconds(10));
}

TEST(Polling, ForgetsOldHabits) {
    Polling polling = after({seconds(1), seconds(1), seconds(1), seconds(1)});
    for (size_t i = 0; i < tunable::poll_history; ++i) {
        polling.record(microseconds(20));
    }
    EXPECT_GT(polling.time(), microseconds(20));
    EXPECT_LT(polling.time(), microseconds(60));
}

TEST(Polling, MeasuresAllWaitsUntilTheHistoryIsFullThenSome) {
    Polling polling;
    for (size_t i = 0; i < tunable::poll_history; ++i) {
        polling.sample(Clock::now() - seconds(1));
    }
    EXPECT_EQ(polling.time(), tunable::poll_once);
    const auto few = tunable::poll_history / 2 + 1;
    for (size_t i = 0; i < few; ++i) {
        polling.sample(Clock::now());
    }
    EXPECT_EQ(polling.time(), tunable::poll_once);
    for (size_t i = few; i < few * tunable::poll_sampling; ++i) {
        polling.sample(Clock::now());
    }
    EXPECT_LT(polling.time(), limit);
    EXPECT_GT(polling.time(), tunable::poll_once);
}

}  // namespace
}  // namespace caravan::net
