#include "server/session/buffer_io.h"

#include <gtest/gtest.h>

#include <thread>

#include "support/session_parts.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::floats;
using test::operator+;

struct BufferIoTest : testing::Test {
    // Writes what the client has sent.
    Result<> write(uint64_t offset, const std::vector<std::byte> & data, bool keep = false) {
        const std::jthread client([&] { session.peer.send(data); });  // a socket may not hold all of it
        auto target = session.region(offset, static_cast<uint32_t>(data.size() / 4));
        return io.write(session.context.in, target, data.size(), keep);
    }

    test::SessionParts session{MemoryBudget::no_limit, nullptr, 4 << 20};
    BufferIo & io = session.context.io;
    StaleMemory & stale = session.context.stale;
};

TEST_F(BufferIoTest, ReadsWhatWasWritten) {
    ASSERT_TRUE(write(8, floats({1, 2, 3})));
    auto source = session.region(8, 3);
    ASSERT_TRUE(io.read(source, 12));
    EXPECT_EQ(session.peer.receive(20), bytes_of(uint64_t{12}) + floats({1, 2, 3}));
}

TEST_F(BufferIoTest, RowsAreTheirStrideApart) {
    session.peer.send(floats({1, 2, 3, 4}));
    auto target = session.region(0, 8);
    ASSERT_TRUE(io.write_rows(target, 8, 2, 16));
    EXPECT_EQ(session.bytes(32), floats({1, 2, 0, 0, 3, 4, 0, 0}));
    ASSERT_TRUE(io.read_rows(target, 4, 2, 16));
    EXPECT_EQ(session.peer.receive(16), bytes_of(uint64_t{8}) + floats({1, 3}));
}

TEST_F(BufferIoTest, FillsTheRegionOnly) {
    ASSERT_TRUE(write(0, floats({1, 1, 1})));
    auto middle = session.region(4, 1);
    ASSERT_TRUE(io.fill(middle, 4, 0));
    EXPECT_EQ(session.bytes(12), floats({1, 0, 1}));
}

TEST_F(BufferIoTest, CopiesEqualLayoutsThatDoNotOverlap) {
    ASSERT_TRUE(write(0, floats({1, 2})));
    auto from = session.region(0, 2), to = session.region(8, 2), longer = session.region(16, 3),
         overlapping = session.region(4, 2);
    ASSERT_TRUE(io.copy(from, to));
    EXPECT_EQ(session.bytes(16), floats({1, 2, 1, 2}));
    for (CheckedRegion * wrong : {&longer, &overlapping}) {
        const auto copied = io.copy(from, *wrong);
        ASSERT_FALSE(copied);
        EXPECT_EQ(copied.error().code, Errc::invalid_argument);
    }
}

TEST_F(BufferIoTest, CopyOfStaleBytesIsStaleUntilItIsWritten) {
    stale.mark(session.buffer, session.buffer + 4);
    auto from = session.region(0, 2), to = session.region(8, 2);
    ASSERT_TRUE(io.copy(from, to));
    EXPECT_TRUE(session.context.is_stale(to));
    ASSERT_TRUE(write(8, floats({5, 6})));
    EXPECT_FALSE(session.context.is_stale(to));
    EXPECT_TRUE(session.context.is_stale(from));
}

TEST_F(BufferIoTest, CountsLongWritesThatAreKept) {
    ASSERT_TRUE(write(0, test::noise(2 << 20)));
    ASSERT_TRUE(write(0, test::noise(4096), true));
    EXPECT_EQ(io.weights_received(), 0u);
    ASSERT_TRUE(write(0, test::noise(2 << 20), true));
    EXPECT_EQ(io.weights_received(), uint64_t{2} << 20);
}

TEST_F(BufferIoTest, EndOfTheConnectionWithinAWriteIsAnError) {
    session.peer.send(floats({1}));
    session.peer.end_sending();
    auto target = session.region(0, 2);
    EXPECT_FALSE(io.write(session.context.in, target, 8, false));
}

}  // namespace
}  // namespace caravan::server
