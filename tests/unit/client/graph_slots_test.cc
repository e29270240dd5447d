#include "client/encode/graph_slots.h"

#include <gtest/gtest.h>

namespace caravan::client {
namespace {

std::vector<wire::GraphTensor> tensors(uint64_t content) {
    std::vector<wire::GraphTensor> out(2);
    out[1].address = content;
    out[1].op = static_cast<uint32_t>((content % 1000 + 1) / 2);  // after the first one, two are alike, as layers are
    return out;
}

struct Launches {
    // As the native dialect does. Returns the slot, and its base if the graph had to be stored.
    uint16_t launch(uint64_t uid, uint64_t content, uint32_t device = 0) {
        base.reset();
        auto * slot = slots.find(device, uid);
        slot = slot == nullptr ? slots.find_equal(device, uid, tensors(content)) : slot;
        if (slot == nullptr) {
            const auto * like = slots.base(device, tensors(content));
            base = like == nullptr ? -1 : slots.index_of(*like);
            slot = &slots.store(device, uid, tensors(content), {}, like);
        }
        slots.record_launch(*slot);
        return slots.index_of(*slot);
    }
    explicit Launches(size_t capacity = 8) : slots(capacity) {}

    GraphSlots slots;
    std::optional<int> base;  // of the last launch; -1: none
};

TEST(GraphSlots, FindsGraphsByNumberAndByContent) {
    Launches one;
    const auto slot = one.launch(7, 100);
    EXPECT_EQ(one.base, -1);
    EXPECT_EQ(one.launch(7, 999), slot) << "the number says what it is";
    EXPECT_EQ(one.launch(8, 100), slot);
    EXPECT_EQ(one.launch(0, 100), slot);
    EXPECT_FALSE(one.base);
    EXPECT_EQ(one.slots.find(0, 8), nullptr) << "the graph has no number now";
    EXPECT_NE(one.launch(9, 101), slot);
    EXPECT_NE(one.launch(7, 100, 1), slot) << "another device";
}

TEST(GraphSlots, ForgottenGraphsAreStillBases) {
    Launches one;
    one.launch(7, 100);
    one.slots.forget();
    EXPECT_EQ(one.slots.find(0, 7), nullptr);
    one.launch(7, 100);
    EXPECT_EQ(one.base, 0);
}

TEST(GraphSlots, TheBaseIsTheGraphAtTheSamePlaceInTheTokenBefore) {
    Launches one(32);
    for (uint64_t place = 0; place < 5; ++place) {
        EXPECT_EQ(one.launch(place + 1, 100 + place), place);
    }
    for (uint64_t token = 1; token < 4; ++token) {
        for (uint64_t place = 0; place < 5; ++place) {
            one.launch(10 * token + place + 1, 1000 * token + 100 + place);
            EXPECT_EQ(one.base, 5 * (token - 1) + place);
        }
    }
}

TEST(GraphSlots, AGraphWithTheSameOpsIsTheBaseOfOneThatFollowsNone) {
    Launches one(32);
    one.launch(1, 100);
    one.launch(2, 200);
    one.launch(3, 1100);
    EXPECT_EQ(one.base, 0);
    one.launch(4, 300);
    EXPECT_EQ(one.base, 1) << "follows as the second one followed the first";
}

TEST(GraphSlots, TheLeastRecentlyUsedGraphIsReplaced) {
    Launches one(4);
    for (uint64_t uid = 1; uid <= 4; ++uid) {
        one.launch(uid, uid);
    }
    one.launch(1, 1);
    EXPECT_EQ(one.launch(5, 5), 1);
    EXPECT_NE(one.slots.find(0, 1), nullptr);
    EXPECT_EQ(one.slots.find(0, 2), nullptr);
    EXPECT_EQ(one.slots.find_equal(0, 2, tensors(2)), nullptr);
}

TEST(GraphSlots, NumbersThatChangeEachTimeTakeNoMemory) {
    Launches one(2);
    for (uint64_t uid = 1; uid < 1000; ++uid) {
        EXPECT_EQ(one.launch(uid, 5), 0);
    }
    EXPECT_EQ(one.slots.find(0, 5), nullptr);
    EXPECT_NE(one.slots.find(0, 999), nullptr);
}

}  // namespace
}  // namespace caravan::client
