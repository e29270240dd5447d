// The memory that devices report to clients.
#include "server/graph/lent_memory.h"

#include <gtest/gtest.h>

#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::two_cpu_devices;

TEST(LentMemory, IsProportionalToDeviceMemory) {
    const std::vector<DeviceMemory> devices{{80, 100}, {10, 300}};
    const auto lent = [&](size_t index, uint64_t max_bytes, uint64_t rest) {
        const DeviceMemory memory = lent_memory(devices, index, max_bytes, rest);
        return std::pair(memory.free, memory.total);
    };
    EXPECT_EQ(lent(0, UINT64_MAX, UINT64_MAX), std::pair(80ul, 100ul));
    EXPECT_EQ(lent(1, 400, 400), std::pair(10ul, 300ul));
    EXPECT_EQ(lent(0, 40, 40), std::pair(10ul, 10ul));
    EXPECT_EQ(lent(1, 40, 40), std::pair(10ul, 30ul)) << "capped by the free memory";
    EXPECT_EQ(lent(0, 40, 8), std::pair(2ul, 10ul));
    EXPECT_EQ(lent(0, 1, 0), std::pair(0ul, 0ul));
    const std::vector<DeviceMemory> huge{{UINT64_MAX, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}}, none{{0, 0}, {0, 0}};
    EXPECT_EQ(lent_memory(huge, 1, UINT64_MAX - 1, 1000).free, 500u);
    EXPECT_EQ(lent_memory(none, 0, 1000, 1000).total, 0u);
}

TEST(LentMemory, CpuDevicesShareMachineMemory) {
    auto devices = two_cpu_devices();
    const auto two = devices.memory(), one = test::cpu_devices().memory();
    ASSERT_EQ(two.size(), 2u);
    EXPECT_EQ(two[0].total, one[0].total / 2);
    EXPECT_EQ(two[1].total, one[0].total / 2);
    const auto little = devices.memory(1000);  // available bytes
    EXPECT_EQ(little[0].free, 500u);
    EXPECT_EQ(little[1].free, 500u);
}

}  // namespace
}  // namespace caravan::server
