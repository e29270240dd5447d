#include "base/size_text.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TEST(SizeText, IsWhatAPersonWouldSay) {
    EXPECT_EQ(size_text(0), "0 bytes");
    EXPECT_EQ(size_text(1023), "1023 bytes");
    EXPECT_EQ(size_text(1024), "1 KiB");
    EXPECT_EQ(size_text(1536), "1.5 KiB");
    EXPECT_EQ(size_text((1 << 20) - 1), "1023.9 KiB");
    EXPECT_EQ(size_text(500 << 20), "500 MiB");
    EXPECT_EQ(size_text(uint64_t{50} << 30), "50 GiB");
    EXPECT_EQ(size_text((uint64_t{17} << 30) + (uint64_t{250} << 20)), "17.2 GiB");
    EXPECT_EQ(size_text(~uint64_t{0}), "15.9 EiB");
}

}  // namespace
}  // namespace caravan
