#include "server/supervisor/session_slots.h"

#include <gtest/gtest.h>

namespace caravan::server {
namespace {

using Verdict = SessionSlots::Verdict;
using Strings = std::vector<std::string>;

TEST(SessionSlots, TheLastOneIsKeptForAnAddressThatHasNone) {
    SessionSlots slots(4, 3);
    EXPECT_EQ(slots.verdict("a"), Verdict::free);
    slots.set_held({"a", "a"});
    EXPECT_EQ(slots.verdict("a"), Verdict::free);
    slots.note_begun("a");
    EXPECT_EQ(slots.verdict("a"), Verdict::address_full);
    EXPECT_EQ(slots.verdict("b"), Verdict::free);
    slots.set_held({"a", "a", "b"});
    EXPECT_EQ(slots.verdict("a"), Verdict::server_full) << "the last one is for others";
    EXPECT_EQ(slots.verdict("b"), Verdict::server_full);
    EXPECT_EQ(slots.verdict("c"), Verdict::free);
    slots.note_begun("c");
    EXPECT_EQ(slots.verdict("d"), Verdict::server_full);
}

TEST(SessionSlots, NoneIsKeptWhereOneAddressMayHaveThemAll) {
    SessionSlots slots(2, 2);
    slots.set_held({"a"});
    EXPECT_EQ(slots.verdict("a"), Verdict::free);
    SessionSlots only(1, 1);
    EXPECT_EQ(only.verdict("a"), Verdict::free);
    only.note_begun("a");
    EXPECT_EQ(only.verdict("a"), Verdict::server_full);
    EXPECT_EQ(only.verdict("b"), Verdict::server_full);
}

TEST(SessionSlots, AddressesTakeTurns) {
    SessionSlots slots(16, 15);
    EXPECT_EQ(slots.order({"a", "a", "b", "a", "b"}), (std::vector<size_t>{0, 2, 1, 4, 3}));
    slots.set_held({"a"});
    EXPECT_EQ(slots.order({"a", "b"}), (std::vector<size_t>{1, 0})) << "who holds fewer comes first";
}

TEST(SessionSlots, WhoHadASessionLatelyComesLast) {
    SessionSlots slots(16, 15);
    slots.note_begun("a");
    slots.note_begun("b");
    slots.set_held({});
    EXPECT_EQ(slots.order({"b", "a", "c"}), (std::vector<size_t>{2, 1, 0}));
}

}  // namespace
}  // namespace caravan::server
