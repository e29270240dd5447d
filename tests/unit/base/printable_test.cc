#include "base/printable.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TEST(Printable, KeepsPrintableText) {
    EXPECT_EQ(printable(""), "");
    EXPECT_EQ(printable("blk.0.ffn_down.weight"), "blk.0.ffn_down.weight");
    EXPECT_EQ(printable("Grüße, 東京, 🚀"), "Grüße, 東京, 🚀");
}

TEST(Printable, ReplacesControlCharacters) {
    EXPECT_EQ(printable("a\x1b[2Jb"), "a?[2Jb");
    EXPECT_EQ(printable("a\x1b]0;title\x07z"), "a?]0;title?z");
    EXPECT_EQ(printable("a\nerror: b\r\tc"), "a?error: b??c");
    EXPECT_EQ(printable(std::string_view("a\0b\x7f", 4)), "a?b?");
    EXPECT_EQ(printable("a\xc2\x9b" "2J"), "a?2J");            // CSI as one C1 character
    EXPECT_EQ(printable("a\xe2\x80\xa8z"), "a?z");             // a line separator
    EXPECT_EQ(printable("a\xe2\x80\xaez"), "a?z");             // right-to-left override
    EXPECT_EQ(printable("a\xe2\x81\xa7z"), "a?z");             // right-to-left isolate
}

TEST(Printable, ReplacesInvalidUtf8) {
    EXPECT_EQ(printable("a\x9b" "b"), "a?b");
    EXPECT_EQ(printable("a\xc3"), "a?");
    EXPECT_EQ(printable("\xe6\x9d"), "??");
    EXPECT_EQ(printable("\xc0\xaf"), "??");                    // '/', overlong
    EXPECT_EQ(printable("\xe0\x80\x9b"), "???");               // CSI, overlong
    EXPECT_EQ(printable("\xed\xa0\x80"), "???");               // a surrogate
    EXPECT_EQ(printable("\xf4\x90\x80\x80"), "????");          // beyond Unicode
    EXPECT_EQ(printable("\xf5\xff"), "??");
    EXPECT_EQ(printable("\xe6\x9d" "a"), "??a");
}

TEST(Printable, CutsBetweenCharacters) {
    EXPECT_EQ(printable("123456", 6), "123456");
    EXPECT_EQ(printable("1234567", 6), "123...");
    EXPECT_EQ(printable("12東京", 7), "12...");
    EXPECT_EQ(printable("1東東東", 7), "1東...");
    EXPECT_EQ(printable("1東京", 7), "1東京");
    EXPECT_EQ(printable("1234", 3), "...");
    EXPECT_EQ(printable("1234", 2), "..");
    EXPECT_EQ(printable("1234", 0), "");
    EXPECT_EQ(printable(std::string(1000, 'x')).size(), 256u);
}

}  // namespace
}  // namespace caravan
