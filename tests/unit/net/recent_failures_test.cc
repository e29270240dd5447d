#ifdef GGML_RPC_RDMA
#include "net/rdma/recent_failures.h"

#include <gtest/gtest.h>

#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

constexpr TimePoint failed_at = TimePoint{} + std::chrono::hours(1);

TEST(RecentFailures, AFailureIsRememberedForItsServerAndForAMinute) {
    RecentFailures failures;
    failures.add("a:1", NoRdma("no message gets through"), failed_at);
    EXPECT_EQ(failures.reason("a:1", failed_at + seconds(20)).text,
              "no message gets through (20 s ago; the next session after 40 s tries again)");
    EXPECT_EQ(failures.reason("b:1", failed_at + seconds(20)).text, "");
    EXPECT_EQ(failures.reason("a:1", failed_at + tunable::rdma_failure_memory).text, "");
}

TEST(RecentFailures, SuccessForgetsTheFailure) {
    RecentFailures failures;
    failures.add("a:1", NoRdma("no message gets through"), failed_at);
    failures.remove("a:1");
    EXPECT_EQ(failures.reason("a:1", failed_at).text, "");
}

TEST(RecentFailures, AWrongSettingDoesNotPassWithTime) {
    RecentFailures failures;
    NoRdma why("GGML_RDMA_GID=3 selects the wrong network");
    why.reason = Reason::rdma_setting;
    failures.add("a:1", why, failed_at);
    EXPECT_EQ(failures.reason("a:1", failed_at).text, why.text);
}

TEST(RecentFailures, IsBounded) {
    RecentFailures failures;
    for (size_t i = 0; i < RecentFailures::max_servers; ++i) {
        failures.add(std::to_string(i), NoRdma("no"), failed_at);
    }
    failures.add("one more", NoRdma("no"), failed_at);
    EXPECT_EQ(failures.reason("one more", failed_at).text, "");
    failures.add("one more", NoRdma("no"), failed_at + tunable::rdma_failure_memory);
    EXPECT_NE(failures.reason("one more", failed_at + tunable::rdma_failure_memory).text, "") << "old ones make room";
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
