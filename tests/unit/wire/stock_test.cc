#include "wire/stock.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace caravan::wire {
namespace {

uint64_t hash(std::string_view text) { return fnv1a(const_bytes(text.data(), text.size())); }

// Test vectors published by the authors of FNV.
TEST(Fnv1a, KnownVectors) {
    EXPECT_EQ(hash(""), 0xcbf29ce484222325);
    EXPECT_EQ(hash("a"), 0xaf63dc4c8601ec8c);
    EXPECT_EQ(hash("b"), 0xaf63df4c8601f1a5);
    EXPECT_EQ(hash("fo"), 0x08985907b541d342);
    EXPECT_EQ(hash("foobar"), 0x85944171f73967e8);
    EXPECT_EQ(hash(std::string_view("\0", 1)), 0xaf63bd4c8601b7df);
    EXPECT_EQ(hash("\xff"), 0xaf64724c8602eb6e);
}

TEST(Fnv1a, ContinuesFromAState) {
    const std::string_view text = "weights in two pieces";
    for (size_t at = 0; at <= text.size(); ++at) {
        const auto first = fnv1a(const_bytes(text.data(), at));
        EXPECT_EQ(fnv1a(const_bytes(text.data() + at, text.size() - at), first), hash(text)) << at;
    }
}

struct Expected {
    int command;
    uint64_t low, high;
};

TEST(PayloadBounds, MatchTheProtocolTable) {
    constexpr uint64_t any = UINT64_MAX;
    constexpr Expected table[] = {
        {0, 12, 12},   {1, 4, 4},      {2, 4, 4},     {3, 8, 8},    {4, 8, 8},     {5, 9, 9},
        {6, 305, any}, {7, 312, 312},  {8, 312, 312}, {9, 592, 592}, {11, 4, 4},    {12, 296, 296},
        {13, 3260, 3260}, {14, 24, 24}, {15, 0, 0},   {16, 12, 12}, {17, 313, 313}, {18, 328, any},
        {19, 328, 328}, {20, 80, 80},  {21, 300, 300}, {22, 4, 4},
    };
    for (const auto & [command, low, high] : table) {
        const PayloadBounds bounds = payload_bounds(static_cast<Command>(command));
        EXPECT_EQ(bounds.low, low) << command;
        EXPECT_EQ(bounds.high, high) << command;
    }
}

TEST(PayloadBounds, GraphPayloadHasAMinimumAndAMaximum) {
    const PayloadBounds bounds = payload_bounds(Command::graph_compute);
    EXPECT_EQ(bounds.low, 20u);
    EXPECT_GE(bounds.high, uint64_t{100'000} * sizeof(Tensor));
    EXPECT_LE(bounds.high, uint64_t{1} << 30);
}

TEST(PayloadBounds, UnknownCommandsAllowNoSize) {
    for (int command = 23; command < 256; ++command) {
        const PayloadBounds bounds = payload_bounds(static_cast<Command>(command));
        EXPECT_GT(bounds.low, bounds.high) << command;
    }
}

TEST(CommandName, NamesAreUnique) {
    EXPECT_STREQ(command_name(Command::get_tensor), "GET_TENSOR");
    EXPECT_STREQ(command_name(Command::comm_free), "COMM_FREE");
    for (int a = 0; a < 23; ++a) {
        for (int b = a + 1; b < 24; ++b) {
            EXPECT_STRNE(command_name(static_cast<Command>(a)), command_name(static_cast<Command>(b))) << a << ' ' << b;
        }
    }
}

}  // namespace
}  // namespace caravan::wire
