#include "server/supervisor/memory_accounts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

namespace caravan::server {
namespace {

TEST(MemoryAccountsTest, TheSystemTells) {
    EXPECT_GT(available_memory(), uint64_t{1} << 20);
    EXPECT_LT(available_memory(), UINT64_MAX);
    EXPECT_GT(resident_memory(::getpid()), uint64_t{1} << 20);
    EXPECT_EQ(resident_memory(0), 0u);
}

TEST(MemoryAccountsTest, WhatIsAllocatedAndNotTouchedIsPromised) {
    const std::vector<Holding> sessions{{10, 0}, {10, 4}, {10, 10}, {10, 300}, {0, 50}};
    EXPECT_EQ(unpromised(100, sessions), 84u);
    EXPECT_EQ(unpromised(12, sessions), 0u);
    EXPECT_EQ(unpromised(100, {}), 100u);
}

TEST(MemoryAccountsTest, ASessionMayHaveWhatOthersLeave) {
    const std::vector<Holding> others{{40, 10}};
    EXPECT_TRUE(may_allocate(70, 0, 100, others));
    EXPECT_FALSE(may_allocate(71, 0, 100, others));
    EXPECT_TRUE(may_allocate(171, 101, 100, others)) << "what it has touched is in use already";
    EXPECT_FALSE(may_allocate(10, 0, 5, std::vector<Holding>{{40, 40}})) << "what others use is not available";
    EXPECT_TRUE(may_allocate(1000, 0, 100, std::vector<Holding>{{0, 40}})) << "a lone session is the kernel's affair";
}

}  // namespace
}  // namespace caravan::server
