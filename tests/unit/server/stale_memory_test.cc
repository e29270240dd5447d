#include "server/session/stale_memory.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace caravan::server {
namespace {

TEST(StaleMemory, TracksMarkedRanges) {
    StaleMemory stale;
    EXPECT_FALSE(stale.overlaps(0, UINT64_MAX));
    stale.mark(10, 20);
    stale.mark(30, 40);
    stale.mark(25, 25);
    EXPECT_TRUE(stale.overlaps(19, 30) && stale.overlaps(0, 11) && stale.overlaps(39, 50));
    EXPECT_FALSE(stale.overlaps(0, 10) || stale.overlaps(20, 30) || stale.overlaps(40, 50) || stale.overlaps(15, 15));
    stale.clear(15, 35);
    EXPECT_TRUE(stale.overlaps(14, 15) && stale.overlaps(35, 36));
    EXPECT_FALSE(stale.overlaps(15, 35));
    stale.clear(0, UINT64_MAX);
    EXPECT_TRUE(stale.empty());
}

TEST(StaleMemory, MatchesReferenceImplementation) {
    StaleMemory stale;
    std::vector<bool> bytes(64);
    std::minstd_rand random(7);
    for (int step = 0; step < 20'000; ++step) {
        const uint64_t begin = random() % bytes.size(), end = begin + random() % (bytes.size() - begin + 1);
        const bool marks = random() % 2 == 0;
        marks ? stale.mark(begin, end) : stale.clear(begin, end);
        std::fill(bytes.begin() + static_cast<ptrdiff_t>(begin), bytes.begin() + static_cast<ptrdiff_t>(end), marks);
        for (uint64_t i = 0; i < bytes.size(); ++i) {
            ASSERT_EQ(stale.overlaps(i, i + 1), bytes[i]) << step << ' ' << i;
        }
        ASSERT_EQ(stale.empty(), std::find(bytes.begin(), bytes.end(), true) == bytes.end());
    }
}

TEST(StaleMemory, MergesRangesBeyondLimit) {
    StaleMemory stale;
    stale.mark(0, 10 * StaleMemory::max_ranges);
    for (uint64_t i = 0; i < 2 * StaleMemory::max_ranges; ++i) {
        stale.clear(4 * i + 1, 4 * i + 2);
    }
    EXPECT_TRUE(stale.overlaps(0, 1));
    EXPECT_TRUE(stale.overlaps(5, 6)) << "ranges are merged, never dropped";
}

}  // namespace
}  // namespace caravan::server
