#include "client/session/reduction_check.h"

#include <gtest/gtest.h>

#include <limits>

namespace caravan::client {
namespace {

TEST(ReductionCheck, EqualBitsAreNoDifference) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<HeldSum> sums{{0, "a:1", {1, nan, -0.0f}}, {1, "b:2", {1, nan, -0.0f}}, {2, "c:3", {1, nan, -0.0f}}};
    EXPECT_FALSE(difference_of("attn_out-3", sums));
    EXPECT_FALSE(difference_of("attn_out-3", std::span(sums).first(1)));
}

TEST(ReductionCheck, ADifferenceNamesTensorElementAndRanks) {
    const std::vector<HeldSum> sums{{0, "a:1", {1, 0.0f}}, {1, "b:2", {1, 0.0f}}, {2, "c:3", {1, -0.0f}}};
    EXPECT_EQ(difference_of("attn_out-3", sums).value_or(""),
              "the sum attn_out-3 differs (GGML_RPC_CHECK_REDUCE): element 1 of 2 is 0 on rank 0 (a:1) and -0 on rank 2 (c:3)");
}

}  // namespace
}  // namespace caravan::client
