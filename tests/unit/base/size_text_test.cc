#include "base/size_text.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TEST(SizeText, Formats) {
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

TEST(SizeText, Parses) {
    EXPECT_EQ(parse_size("4096"), 4096u);
    EXPECT_EQ(parse_size("500M"), uint64_t{500} << 20);
    EXPECT_EQ(parse_size("1.5G"), uint64_t{1536} << 20);
    EXPECT_EQ(parse_size("50 GiB"), uint64_t{50} << 30);
    EXPECT_EQ(parse_size("2tb"), uint64_t{2} << 40);
    EXPECT_EQ(parse_size("7kb"), 7168u);
    EXPECT_EQ(parse_size("0"), 0u);
    for (const char * text : {"", "G", "5X", "-3G", "5GX", "5iB", "5 5", "inf", "nan", "1e9G", "9000000000T", "5 G "}) {
        EXPECT_FALSE(parse_size(text)) << text;
    }
}

}  // namespace
}  // namespace caravan
