#include "client/session/undelivered_regions.h"

#include <gtest/gtest.h>

#include "abi/ggml_abi.h"

namespace caravan::client {
namespace {

TEST(UndeliveredRegions, RegionIsUndeliveredUntilItIsOverwritten) {
    UndeliveredRegions regions;
    EXPECT_TRUE(regions.empty());
    regions.record_write({100, 200}, true);
    EXPECT_TRUE(regions.empty());
    regions.record_write({100, 200}, false);
    EXPECT_TRUE(regions.overlaps({199, 300}));
    EXPECT_FALSE(regions.overlaps({200, 300}));
    EXPECT_FALSE(regions.overlaps({0, 100}));
    regions.record_write({100, 199}, true);
    EXPECT_TRUE(regions.overlaps({150, 160})) << "one byte is still missing";
    regions.record_write({50, 200}, true);
    EXPECT_TRUE(regions.empty());
}

TEST(UndeliveredRegions, RepeatedFailuresAreOneRegion) {
    UndeliveredRegions regions;
    regions.record_write({100, 200}, false);
    regions.record_write({100, 200}, false);
    regions.record_write({100, 200}, true);
    EXPECT_TRUE(regions.empty());
}

TEST(UndeliveredRegions, GraphThatReadsOneIsTouched) {
    UndeliveredRegions regions;
    regions.record_write({100, 200}, false);
    EXPECT_TRUE(regions.touched_by({.touched = {{0, 10}, {190, 300}}, .overwritten = {}}));
    EXPECT_FALSE(regions.touched_by({.touched = {{0, 100}, {200, 300}}, .overwritten = {}}));
    EXPECT_FALSE(regions.touched_by({.touched = {}, .overwritten = {{100, 200}}})) << "it overwrites the region first";
}

TEST(IsAbsent, AllBitsOfAFloatingPointTensor) {
    std::vector<std::byte> bytes(64, std::byte{0xff});
    EXPECT_TRUE(is_absent(GGML_TYPE_F32, bytes));
    EXPECT_TRUE(is_absent(GGML_TYPE_Q8_0, bytes));
    EXPECT_FALSE(is_absent(GGML_TYPE_I32, bytes)) << "-1";
    EXPECT_FALSE(is_absent(GGML_TYPE_F32, {}));
    for (const size_t at : {size_t{0}, size_t{31}, size_t{63}}) {
        bytes[at] = std::byte{0xfe};
        EXPECT_FALSE(is_absent(GGML_TYPE_F32, bytes)) << at;
        bytes[at] = std::byte{0xff};
    }
}

}  // namespace
}  // namespace caravan::client
