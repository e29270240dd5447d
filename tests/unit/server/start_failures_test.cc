#include "server/supervisor/start_failures.h"

#include <gtest/gtest.h>

namespace caravan::server {
namespace {

constexpr TimePoint start = TimePoint{} + std::chrono::hours(1);

TEST(StartFailures, FirstAttemptIsImmediate) {
    const StartFailures failures;
    EXPECT_LE(failures.retry_at(), start);
    EXPECT_EQ(failures.cause(), "");
}

TEST(StartFailures, PausesDoubleUpToTheirMaximumUntilAWorkerLoads) {
    StartFailures failures;
    TimePoint now = start;
    for (const int pause : {2, 4, 8, 16, 30, 30}) {
        failures.failed("no memory", now);
        EXPECT_EQ(failures.retry_at(), now + seconds(pause));
        now = failures.retry_at();
    }
    EXPECT_TRUE(failures.started());
    failures.failed("no memory", now);
    EXPECT_EQ(failures.retry_at(), now + seconds(2));
}

TEST(StartFailures, ACauseIsLoggedOnceUntilItChangesOrAWorkerLoads) {
    StartFailures failures;
    EXPECT_TRUE(failures.failed("no memory", start));
    for (int i = 0; i < 5; ++i) {
        EXPECT_FALSE(failures.failed("no memory", start));
    }
    EXPECT_TRUE(failures.failed("no program", start));
    EXPECT_EQ(failures.cause(), "no program");
    EXPECT_TRUE(failures.started());
    EXPECT_FALSE(failures.started()) << "nothing had failed";
    EXPECT_TRUE(failures.failed("no program", start));
}

TEST(StartFailures, ADeadSpareDelaysTheNextStartAndIsNoOutage) {
    StartFailures failures;
    failures.spare_died(start);
    EXPECT_EQ(failures.retry_at(), start + seconds(2));
    EXPECT_EQ(failures.cause(), "");
}

}  // namespace
}  // namespace caravan::server
