#include "client/session/reply_check.h"

#include <gtest/gtest.h>

#include <array>

namespace caravan::client {
namespace {

constexpr uint64_t vast = UINT64_MAX;

TEST(ReplyCheck, DeviceCountIsBounded) {
    EXPECT_TRUE(check_device_count(0));
    EXPECT_TRUE(check_device_count(max_devices));
    EXPECT_FALSE(check_device_count(max_devices + 1));
    EXPECT_FALSE(check_device_count(UINT32_MAX));
}

TEST(ReplyCheck, AlignmentIsAPowerOfTwoUpToAHugePage) {
    for (const uint64_t good : {uint64_t{1}, uint64_t{32}, uint64_t{4096}, max_alignment}) {
        EXPECT_TRUE(check_alignment(good)) << good;
    }
    for (const uint64_t bad : {uint64_t{0}, uint64_t{3}, uint64_t{48}, max_alignment * 2, uint64_t{1} << 63, vast}) {
        EXPECT_FALSE(check_alignment(bad)) << bad;
    }
}

TEST(ReplyCheck, MaxSizeIsNotZero) {
    EXPECT_FALSE(check_max_size(0));
    EXPECT_TRUE(check_max_size(1));
    EXPECT_TRUE(check_max_size(vast)) << "no limit";
}

TEST(ReplyCheck, SumOfMemoryDoesNotOverflow) {
    EXPECT_TRUE(check_memory({0, 0}));
    EXPECT_TRUE(check_memory({max_device_memory, max_device_memory}));
    EXPECT_FALSE(check_memory({0, max_device_memory + 1}));
    EXPECT_FALSE(check_memory({vast, vast}));
    EXPECT_LE(max_device_memory, uint64_t{INT64_MAX} / max_devices);
}

TEST(ReplyCheck, TensorSizeIsBounded) {
    EXPECT_TRUE(check_alloc_size(0));
    EXPECT_TRUE(check_alloc_size(max_tensor_size));
    EXPECT_FALSE(check_alloc_size(max_tensor_size + 1));
    EXPECT_FALSE(check_alloc_size(vast - 63)) << "becomes 0 when it is aligned";
}

TEST(ReplyCheck, BufferHasTheRequestedSizeAndAValidAddress) {
    constexpr uint64_t base = uint64_t{1} << 48;
    EXPECT_TRUE(check_buffer({1, 1000}, base, 1000, 32));
    EXPECT_TRUE(check_buffer({1, 4096}, base, 1000, 32)) << "rounded up";
    EXPECT_FALSE(check_buffer({1, 999}, base, 1000, 32));
    EXPECT_FALSE(check_buffer({1, uint64_t{1} << 40}, base, 1000, 32)) << "enormous";
    EXPECT_FALSE(check_buffer({1, vast}, base, 1000, 32));
    EXPECT_FALSE(check_buffer({1, 1000}, 0, 1000, 32));
    EXPECT_FALSE(check_buffer({1, 1000}, base + 1, 1000, 32)) << "not aligned";
    EXPECT_TRUE(check_buffer({1, 1000}, base + 1, 1000, 1));
    EXPECT_FALSE(check_buffer({1, 1000}, vast - 999, 1000, 1)) << "ends at 0";
    EXPECT_FALSE(check_buffer({1, 1000}, vast - 9, 1000, 1));
    EXPECT_TRUE(check_buffer({1, 0}, base, 0, 32));
}

TEST(ReplyCheck, FlagIsZeroOrOne) {
    EXPECT_TRUE(check_flag(0));
    EXPECT_TRUE(check_flag(1));
    EXPECT_FALSE(check_flag(2));
    EXPECT_FALSE(check_flag(255));
}

TEST(ReplyCheck, SpansAreWithinTheSession) {
    constexpr uint64_t opened = 1'000'000, age = 5000;
    const auto check = [](uint64_t begin, uint64_t end) {
        const std::array spans{wire::Span{begin, end, 0}};
        return check_spans(1, spans, opened, age).has_value();
    };
    EXPECT_TRUE(check(opened, opened + age));
    EXPECT_TRUE(check(opened - 1000, opened - 10)) << "the clock offset is an estimate, and times may be near 0";
    EXPECT_FALSE(check(opened + 100, opened + 99));
    EXPECT_FALSE(check(opened, vast));
    EXPECT_FALSE(check(vast / 2, vast / 2 + 10));
    EXPECT_FALSE(check(opened + 300'000'000'000, opened + 300'000'000'001));
    const std::array<wire::Span, 2> spans{};
    EXPECT_TRUE(check_spans(2, spans, 0, 0));
    EXPECT_FALSE(check_spans(3, spans, 0, 0)) << "more than the reply holds";
}

}  // namespace
}  // namespace caravan::client
