// Digest files: a file that deviates from the format is ignored.
#include "cache/digest_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "platform/unique_fd.h"
#include "support/temporary_folder.h"

namespace caravan::cache {
namespace {

class DigestFileTest : public testing::Test {
protected:
    DigestFileTest() : layout_(*open_digests(folder_.path())), file_(digest_file(layout_, model_)) {
        EXPECT_TRUE(save_digests(layout_, {model_, {7, 1000, -5}, {{{0, 1000}, 1, std::string(64, 'a')},
                                                                   {{10, 20}, 2, std::string(64, 'b')}},
                                            {{{3, 5, 2, 7}, std::string(64, 'c')}}}));
        std::ifstream in(file_);
        text_.assign(std::istreambuf_iterator<char>(in), {});
    }
    bool is_good(const std::string & text) const {
        test::write_file(file_, text);
        return load_digests(file_).has_value();
    }

    const test::TemporaryFolder folder_;
    const std::filesystem::path model_ = "/models/a model.gguf";
    const Layout layout_;
    const std::filesystem::path file_;
    std::string text_;
};

TEST_F(DigestFileTest, LoadsSavedDigests) {
    const auto read = load_digests(file_);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->path, model_);
    EXPECT_EQ(read->stamp, (FileStamp{7, 1000, -5}));
    ASSERT_EQ(read->tensors.size(), 2u);
    EXPECT_EQ(read->tensors[1].extent.offset, 10u);
    EXPECT_EQ(read->tensors[1].extent.size, 20u);
    EXPECT_EQ(read->tensors[1].fnv, 2u);
    EXPECT_EQ(read->tensors[1].digest, std::string(64, 'b'));
    ASSERT_EQ(read->parts.size(), 1u);
    EXPECT_EQ(read->parts[0].rows, (Rows{3, 5, 2, 7}));
    EXPECT_EQ(read->parts[0].digest, std::string(64, 'c'));
}

TEST_F(DigestFileTest, IgnoresTruncatedFile) {
    for (size_t length = 0; length < text_.size(); ++length) {
        EXPECT_FALSE(is_good(text_.substr(0, length))) << length;
    }
    EXPECT_TRUE(is_good(text_));
}

TEST_F(DigestFileTest, IgnoresMalformedFile) {
    const auto changed = [&](std::string_view what, std::string_view to) {
        std::string text = text_;
        text.replace(text.find(what), what.size(), to);
        return text;
    };
    EXPECT_FALSE(is_good(changed("digests 1", "digests 2"))) << "unknown version";
    EXPECT_FALSE(is_good(changed("\nend\n", "\nEND\n")));
    EXPECT_FALSE(is_good(text_ + "more"));
    EXPECT_FALSE(is_good(text_ + "end\n"));
    EXPECT_FALSE(is_good(changed("10 20 ", "10 991 "))) << "beyond the file";
    EXPECT_FALSE(is_good(changed("10 20 ", "1001 0 "))) << "beyond the file";
    EXPECT_TRUE(is_good(changed("10 20 ", "10 990 ")));
    EXPECT_TRUE(is_good(changed("rows 3 5 2 7 ", "rows 3 5 2 992 ")));
    for (const char * line : {"rows 3 5 2 993 ", "rows 3 5 2 4 ", "rows 3 0 2 7 ", "rows 3 5 0 7 ", "rows 3 5 2 7 8 ",
                              "rows 3 5 18446744073709551615 18446744073709551615 "}) {
        EXPECT_FALSE(is_good(changed("rows 3 5 2 7 ", line))) << line;
    }
}

TEST_F(DigestFileTest, RejectsPathWithNewline) {
    const auto saved = save_digests(layout_, {"/models/a\nend\n", {}, {}, {}});
    ASSERT_FALSE(saved);
    EXPECT_EQ(saved.error().code, Errc::invalid_argument);
}

TEST_F(DigestFileTest, OpensBlobsByValidDigestOnly) {
    std::filesystem::create_directories(layout_.blob("x").parent_path());
    test::write_file(layout_.blob(std::string(64, 'a')), "abc");
    test::write_file(layout_.blob("../secret"), "abc");
    test::write_file(layout_.blob("short"), "abc");
    EXPECT_TRUE(open_blob(layout_, std::string(64, 'a'), 3));
    EXPECT_FALSE(open_blob(layout_, std::string(64, 'a'), 4));
    EXPECT_FALSE(open_blob(layout_, std::string(64, 'b'), 3));
    EXPECT_FALSE(open_blob(layout_, "../secret", 3));
    EXPECT_FALSE(open_blob(layout_, "short", 3));
    EXPECT_FALSE(open_blob(layout_, "", 3));
}

TEST(FileStamp, ExistsForRegularFilesOnly) {
    const test::TemporaryFolder folder;
    test::write_file(folder / "file", "abc");
    const UniqueFd file(::open((folder / "file").c_str(), O_RDONLY)), directory(::open(folder.path().c_str(), O_RDONLY));
    ASSERT_TRUE(FileStamp::of(file.get()));
    EXPECT_EQ(FileStamp::of(file.get())->size, 3u);
    EXPECT_FALSE(FileStamp::of(directory.get()));
}

}  // namespace
}  // namespace caravan::cache
