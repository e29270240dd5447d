#include "cache/rows.h"

#include <gtest/gtest.h>

#include <fstream>

#include "cache/reader.h"
#include "platform/file.h"
#include "support/temporary_folder.h"
#include "support/byte_strings.h"

namespace caravan::cache {
namespace {

TEST(Rows, LieWithinAnEnd) {
    EXPECT_TRUE((Rows{10, 5, 3, 7}).are_within(10 + 2 * 7 + 5));
    EXPECT_FALSE((Rows{10, 5, 3, 7}).are_within(10 + 2 * 7 + 4));
    EXPECT_TRUE((Rows{0, 5, 1, 0}).are_within(5)) << "the distance of a single row does not matter";
    constexpr uint64_t most = UINT64_MAX;
    for (const Rows & bad : {Rows{0, 0, 1, 1}, Rows{0, 1, 0, 1}, Rows{0, 5, 2, 4}, Rows{0, 5, most, most}, Rows{most, 5, 1, 5},
                             Rows{0, most, 2, most}, Rows{0, 2, (most >> 1) + 2, 2}, Rows{6, most - 5, 1, 0}}) {
        EXPECT_FALSE(bad.are_within(most)) << bad.offset << " " << bad.size << " " << bad.count << " " << bad.stride;
    }
}

// In pieces of any size, with rows above and below the size from which each is read by itself.
TEST(Rows, ReaderReadsPackedRows) {
    const test::TemporaryFolder folder;
    const auto data = test::noise(3'000'000);
    test::write_file(folder / "model", test::text_of(data));
    for (const Rows & rows : {Rows{7, 3, 1000, 5}, Rows{1, 544, 2000, 1088}, Rows{100, 1000, 900, 3000}, Rows{5, 70'000, 20, 140'000},
                              Rows{0, 2'000'000, 1, 0}, Rows{9, 64, 2, 2'900'000}, Rows{3, 100, 7, 100}}) {
        ASSERT_TRUE(rows.are_within(data.size() - 10));
        std::vector<std::byte> packed;
        for (uint64_t i = 0; i < rows.count; ++i) {
            const auto row = ConstBytes(data).subspan(10 + rows.offset + i * rows.stride, rows.size);
            packed.insert(packed.end(), row.begin(), row.end());
        }
        Blake3 digest;
        digest.update(packed);
        for (const size_t step : {size_t{1000}, size_t{1} << 20, packed.size()}) {
            Reader reader({.fd = *platform::open_to_read(folder / "model"), .path = "model",
                           .rows = Rows::contiguous(10, data.size() - 10), .digest = ""},
                          [](Damage, std::string_view) { FAIL() << "a part says nothing about the whole"; });
            reader.narrow(rows, digest.hex());
            ASSERT_EQ(reader.size(), packed.size());
            std::vector<std::byte> got(packed.size());
            for (size_t done = 0; done < got.size();) {
                const auto read = reader.read(MutableBytes(got).subspan(done, std::min(step, got.size() - done)));
                ASSERT_TRUE(read && *read > 0);
                done += *read;
            }
            EXPECT_TRUE(got == packed) << rows.size << " " << step;
            EXPECT_TRUE(reader.verify());
        }
    }
}

TEST(Rows, ReaderNoticesAShortFileAndAWrongDigest) {
    const test::TemporaryFolder folder;
    test::write_file(folder / "model", std::string(1000, 'x'));
    for (const Rows & rows : {Rows{0, 10, 50, 30}, Rows{0, 100, 5, 100}}) {
        bool is_reported = false;
        Reader reader({.fd = *platform::open_to_read(folder / "model"), .path = "model", .rows = Rows::contiguous(0, 2000), .digest = ""},
                      [&](Damage, std::string_view) { is_reported = true; });
        reader.narrow(rows, std::string(64, '0'));
        std::vector<std::byte> got(rows.bytes());
        for (size_t done = 0, more = 1; more > 0; done += more) {
            more = reader.read(MutableBytes(got).subspan(done)).value();
        }
        EXPECT_FALSE(reader.verify());
        EXPECT_FALSE(is_reported) << "the client may have asked for nonsense";
    }
}

}  // namespace
}  // namespace caravan::cache
