#include "base/counted.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TEST(Counted, UsesThePluralExceptForOne) {
    EXPECT_EQ(counted(0, "session"), "0 sessions");
    EXPECT_EQ(counted(1, "session"), "1 session");
    EXPECT_EQ(counted(2, "session"), "2 sessions");
}

}  // namespace
}  // namespace caravan
