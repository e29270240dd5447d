#include "net/resume/reconnect_policy.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace caravan::net {
namespace {

constexpr seconds policy_grace{60};
constexpr TimePoint policy_start = TimePoint{} + std::chrono::hours(1);

microseconds no_jitter(microseconds backoff) { return backoff; }

ReconnectPolicy active_policy() { return ReconnectPolicy(false, policy_grace, no_jitter); }
ReconnectPolicy passive_policy() { return ReconnectPolicy(true, policy_grace, no_jitter); }

TEST(ReconnectPolicy, TheActiveEndRetriesAtOnceAndGivesUpAfterTheGracePeriod) {
    for (const Errc code : {Errc::closed, Errc::reset, Errc::io, Errc::timed_out, Errc::protocol}) {
        ReconnectPolicy policy = active_policy();
        EXPECT_EQ(policy.on_lost(code, 0, policy_start), policy_grace);
        EXPECT_EQ(policy.next_attempt_at(), policy_start);
        EXPECT_EQ(policy.give_up_at(), policy_start + policy_grace);
    }
}

// The monotonic clock counts from the start of the machine.
TEST(ReconnectPolicy, ALossSoonAfterTheMachineStartedHasTheWholeGracePeriod) {
    for (ReconnectPolicy policy : {active_policy(), passive_policy()}) {
        const TimePoint now = TimePoint{} + seconds(2);
        EXPECT_EQ(policy.on_lost(Errc::io, 0, now), policy_grace);
        EXPECT_EQ(policy.next_attempt_at(), now);
        EXPECT_EQ(policy.give_up_at(), now + policy_grace);
    }
}

TEST(ReconnectPolicy, BackOffDoublesUpToItsMaximum) {
    ReconnectPolicy policy = active_policy();
    policy.on_lost(Errc::io, 0, policy_start);
    TimePoint now = policy_start;
    for (const int pause : {50, 100, 200, 400, 500, 500}) {
        policy.on_attempt_failed(now);
        EXPECT_EQ(policy.next_attempt_at(), now + milliseconds(pause));
        now = policy.next_attempt_at();
    }
    EXPECT_EQ(policy.give_up_at(), policy_start + policy_grace) << "failed attempts do not extend the grace period";
}

TEST(ReconnectPolicy, AShortConnectionWithoutProgressCountsAsAFailedAttempt) {
    ReconnectPolicy policy = active_policy();
    policy.on_lost(Errc::io, 100, policy_start);
    policy.on_reconnected(policy_start + seconds(1));
    const TimePoint lost = policy_start + seconds(1) + ReconnectPolicy::min_lifetime;
    policy.on_lost(Errc::io, 100, lost);
    EXPECT_EQ(policy.next_attempt_at(), lost + ReconnectPolicy::min_backoff);
    EXPECT_EQ(policy.give_up_at(), policy_start + policy_grace);
}

TEST(ReconnectPolicy, ProgressOrALongConnectionRestartsTheGracePeriod) {
    for (const bool has_progress : {false, true}) {
        ReconnectPolicy policy = active_policy();
        policy.on_lost(Errc::io, 100, policy_start);
        policy.on_attempt_failed(policy_start);
        policy.on_reconnected(policy_start + seconds(1));
        const TimePoint lost = policy_start + seconds(1) + ReconnectPolicy::min_lifetime + milliseconds(has_progress ? -1 : 1);
        policy.on_lost(Errc::io, has_progress ? 101 : 100, lost);
        EXPECT_EQ(policy.next_attempt_at(), lost);
        EXPECT_EQ(policy.give_up_at(), lost + policy_grace);
        policy.on_attempt_failed(lost);
        EXPECT_EQ(policy.next_attempt_at(), lost + ReconnectPolicy::min_backoff) << "the back-off starts over";
    }
}

TEST(ReconnectPolicy, WithoutAGracePeriodTheStreamEnds) {
    for (const bool is_passive : {false, true}) {
        EXPECT_FALSE(ReconnectPolicy(is_passive, seconds(0), no_jitter).on_lost(Errc::io, 0, policy_start));
    }
}

TEST(ReconnectPolicy, ThePassiveEndEndsAfterACloseOrAProtocolError) {
    for (const Errc code : {Errc::closed, Errc::protocol}) {
        EXPECT_FALSE(passive_policy().on_lost(code, 0, policy_start));
    }
    EXPECT_EQ(passive_policy().on_lost(Errc::io, 0, policy_start), policy_grace);
}

TEST(ReconnectPolicy, AnUnwatchedPeerHasLittleTimeAfterAReset) {
    ReconnectPolicy policy = passive_policy();
    EXPECT_EQ(policy.on_lost(Errc::reset, 0, policy_start), ReconnectPolicy::grace_after_reset);
    EXPECT_EQ(policy.give_up_at(), policy_start + ReconnectPolicy::grace_after_reset);
    const seconds shorter{2};
    EXPECT_EQ(ReconnectPolicy(true, shorter, no_jitter).on_lost(Errc::reset, 0, policy_start), shorter);
}

TEST(ReconnectPolicy, AWatchedPeerMayReconnectAfterACloseOrAReset) {
    ReconnectPolicy policy = passive_policy();
    policy.watch_peer(true);
    EXPECT_EQ(policy.on_lost(Errc::closed, 0, policy_start), policy_grace);
    policy.watch_peer(false);
    EXPECT_EQ(policy.on_lost(Errc::reset, 1, policy_start), policy_grace) << "it was watched";
    EXPECT_FALSE(policy.on_lost(Errc::closed, 2, policy_start)) << "it is not watched any more";
}

TEST(ReconnectPolicy, AfterThePeersExitThePassiveEndEnds) {
    ReconnectPolicy policy = passive_policy();
    policy.watch_peer(true);
    policy.peer_ended();
    EXPECT_FALSE(policy.on_lost(Errc::io, 0, policy_start));
}

}  // namespace
}  // namespace caravan::net
