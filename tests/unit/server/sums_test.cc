#include "server/links/sums.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace caravan::server {
namespace {

TEST(Sums, TheOrderIsThatOfRecursiveDoubling) {
    // 2^24 + 1 is not a float: which additions lose the 1 depends on the order.
    constexpr float big = 16'777'216;
    const auto sum = [](std::vector<float> terms) {
        std::vector<float *> places;
        for (float & one : terms) {
            places.push_back(&one);
        }
        sum_up(places, 1);
        return terms[0];
    };
    EXPECT_EQ(sum({5}), 5);
    EXPECT_EQ(sum({1, 2}), 3);
    EXPECT_EQ(sum({big, 1, 1}), big) << "(big + 1) + 1";
    EXPECT_EQ(sum({1, big, 1}), big + 2) << "(1 + 1) + big";
    EXPECT_EQ(sum({big, 1, 1, 1}), big + 2) << "(big + 1) + (1 + 1)";
    EXPECT_EQ(sum({big, 0, 1, 0, 1, 0, 1}), big + 2) << "((big + 1) + 0) + ((1 + 1) + 0)";
}

TEST(Sums, BfloatRoundsToNearestEven) {
    const std::array<float, 8> values{1.0f, 1.00390625f, 1.01171875f, 1.003907f, -1.003907f,
                                      std::numeric_limits<float>::infinity(),
                                      std::numeric_limits<float>::max(), 0.0f};
    std::array<uint16_t, 8> reduced{};
    std::array<float, 8> back{};
    to_bfloat16(values, reduced);
    from_bfloat16(reduced, back);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(back, (std::array<float, 8>{1.0f, 1.0f, 1.015625f, 1.0078125f, -1.0078125f, infinity, infinity, 0.0f}));
    const std::array nan{std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xffffffffu)};
    std::array<uint16_t, 2> reduced_nan{};
    std::array<float, 2> still_nan{};
    to_bfloat16(nan, reduced_nan);
    from_bfloat16(reduced_nan, still_nan);
    EXPECT_TRUE(std::isnan(still_nan[0]) && std::isnan(still_nan[1]));
}

}  // namespace
}  // namespace caravan::server
