#include "net/resume/upgrade_policy.h"

#include <gtest/gtest.h>

#include "tunables/resume.h"

namespace caravan::net {
namespace {

constexpr TimePoint upgrade_start = TimePoint{} + std::chrono::hours(1);

UpgradePolicy upgrade_policy() {
    return UpgradePolicy([](microseconds pause) { return pause; });
}

TEST(UpgradePolicy, AStreamThatNeverUsedRdmaIsNotUpgraded) {
    UpgradePolicy policy = upgrade_policy();
    policy.on_connected(false, upgrade_start);
    policy.on_connected(false, upgrade_start + seconds(5));
    EXPECT_EQ(policy.next_attempt_at(), no_deadline);
}

TEST(UpgradePolicy, OneAttemptIsMadeOnRequest) {
    UpgradePolicy policy = upgrade_policy();
    policy.on_connected(false, upgrade_start);
    policy.request(upgrade_start + seconds(5));
    EXPECT_EQ(policy.next_attempt_at(), upgrade_start + seconds(5));
    policy.on_interrupted(upgrade_start + seconds(6));
    EXPECT_EQ(policy.next_attempt_at(), upgrade_start + seconds(7)) << "RDMA was not the reason";
    policy.on_attempt_failed(upgrade_start + seconds(8));
    EXPECT_EQ(policy.next_attempt_at(), no_deadline);
    EXPECT_FALSE(policy.had_rdma());
}

TEST(UpgradePolicy, PausesDoubleUpToTheirMaximum) {
    UpgradePolicy policy = upgrade_policy();
    policy.on_connected(true, upgrade_start);
    EXPECT_EQ(policy.next_attempt_at(), no_deadline) << "it uses RDMA";
    TimePoint now = upgrade_start + seconds(10);
    policy.on_connected(false, now);
    for (const int pause : {1, 2, 4, 8, 16, 32, 60, 60}) {
        EXPECT_EQ(policy.next_attempt_at(), now + seconds(pause));
        now = policy.next_attempt_at();
        policy.on_attempt_failed(now);
    }
}

TEST(UpgradePolicy, AnotherLossOfTcpKeepsTheTimeOfTheNextAttempt) {
    UpgradePolicy policy = upgrade_policy();
    policy.on_connected(true, upgrade_start);
    policy.on_connected(false, upgrade_start + seconds(10));
    policy.on_connected(false, upgrade_start + milliseconds(10500));
    EXPECT_EQ(policy.next_attempt_at(), upgrade_start + seconds(11));
    EXPECT_EQ(policy.lost_for(upgrade_start + seconds(12)), seconds(2));
}

TEST(UpgradePolicy, RdmaThatFailsAgainSoonMakesThePausesGrow) {
    UpgradePolicy policy = upgrade_policy();
    policy.on_connected(true, upgrade_start);
    TimePoint now = upgrade_start + seconds(10);
    for (const int pause : {1, 2, 4}) {
        policy.on_connected(false, now);
        EXPECT_EQ(policy.next_attempt_at(), now + seconds(pause));
        now = policy.next_attempt_at();
        policy.on_connected(true, now);
        EXPECT_EQ(policy.next_attempt_at(), no_deadline);
        now += tunable::upgrade_min_lifetime;
    }
    now += seconds(1);  // it worked for longer than min_lifetime
    policy.on_connected(false, now);
    EXPECT_EQ(policy.next_attempt_at(), now + tunable::min_upgrade_pause);
}

}  // namespace
}  // namespace caravan::net
