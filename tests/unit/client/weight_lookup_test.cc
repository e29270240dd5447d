#include "client/weights/weight_lookup.h"

#include <gtest/gtest.h>

namespace caravan::client {
namespace {

TEST(WeightLookup, IsWorthwhileUntilManyMissesInARow) {
    WeightLookup lookup;
    for (int i = 1; i < WeightLookup::max_consecutive_misses; ++i) {
        lookup.record(false);
    }
    EXPECT_TRUE(lookup.is_worthwhile());
    lookup.record(true);
    for (int i = 1; i < WeightLookup::max_consecutive_misses; ++i) {
        lookup.record(false);
    }
    EXPECT_TRUE(lookup.is_worthwhile()) << "a hit ends the row";
    lookup.record(false);
    EXPECT_FALSE(lookup.is_worthwhile());
}

TEST(WeightLookup, IsNotWorthwhileOnAServerThatKeepsNoWeights) {
    WeightLookup lookup;
    EXPECT_FALSE(lookup.is_cache_known());
    EXPECT_TRUE(lookup.is_worthwhile()) << "a stock server cannot be asked";
    lookup.set_cache(false, false);
    EXPECT_TRUE(lookup.is_cache_known());
    EXPECT_FALSE(lookup.is_worthwhile());
    lookup.set_cache(true, true);
    EXPECT_TRUE(lookup.is_worthwhile());
}

TEST(WeightLookup, ExpectsAHitAfterAHit) {
    WeightLookup lookup;
    EXPECT_FALSE(lookup.expects_hit());
    lookup.record(true);
    EXPECT_TRUE(lookup.expects_hit());
    lookup.record(false);
    EXPECT_FALSE(lookup.expects_hit());
}

TEST(WeightLookup, PendingLookupsStayInPlaceAndInOrder) {
    WeightLookup lookup;
    const auto find = [](uint64_t begin) {
        WeightLookup::PendingFind out;
        out.range = {begin, begin + 10};
        return out;
    };
    WeightLookup::PendingFind & first = lookup.add(find(100));
    for (size_t i = 1; i < WeightLookup::max_pending; ++i) {
        lookup.add(find(100 + 20 * i));
    }
    first.found = 1;  // a reply arrives here
    EXPECT_EQ(lookup.pending(), WeightLookup::max_pending);
    EXPECT_EQ(&lookup.oldest(), &first);
    EXPECT_TRUE(lookup.overlaps({109, 110}));
    EXPECT_FALSE(lookup.overlaps({110, 120})) << "a gap";
    EXPECT_EQ(lookup.taken(), 0u);
    const WeightLookup::PendingFind taken = lookup.take_oldest();
    EXPECT_EQ(taken.found, 1);
    EXPECT_EQ(taken.range.begin, 100u);
    EXPECT_EQ(lookup.taken(), 1u);
    EXPECT_EQ(lookup.oldest().range.begin, 120u);
    EXPECT_FALSE(lookup.overlaps({109, 110}));
}

}  // namespace
}  // namespace caravan::client
