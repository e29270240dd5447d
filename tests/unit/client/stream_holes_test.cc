// Holes: bytes that another connection is still receiving.
#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "support/stream_line.h"

namespace caravan::client {
namespace {

using stream_line::StreamTest;
using test::bytes_of;
using test::text_of;

TEST_F(StreamTest, NothingAfterAHoleIsSentBeforeItIsFilled) {
    auto held = lock();
    append("abc");
    std::vector<std::byte> bytes(3);
    std::byte * memory = bytes.data();
    const uint64_t hole = stream->position();
    stream->append_hole(hole, std::move(bytes));
    append("ghi");
    EXPECT_EQ(stream->position(), 9u);
    ASSERT_TRUE(stream->flush(held, hole));
    EXPECT_EQ(text_of(peer.receive(3)), "abc");
    EXPECT_EQ(peer.unread(), 0u);
    std::memcpy(memory, "def", 3);  // the memory was not moved
    stream->fill(hole);
    ASSERT_TRUE(stream->flush(held, stream->position()));
    EXPECT_EQ(text_of(peer.receive(6)), "defghi");
}

TEST_F(StreamTest, HolesAreFilledInAnyOrder) {
    auto held = lock();
    std::vector<std::byte> one(1, std::byte{'?'}), two(1, std::byte{'?'});
    std::byte *first = one.data(), *second = two.data();
    const uint64_t early = stream->position();
    stream->append_hole(early, std::move(one));
    append("-");
    const uint64_t late = stream->position();
    stream->append_hole(late, std::move(two));
    append("!");
    *second = std::byte{'2'};
    stream->fill(late);
    ASSERT_TRUE(stream->flush(held, 0));
    EXPECT_EQ(peer.unread(), 0u);
    *first = std::byte{'1'};
    stream->fill(early);
    ASSERT_TRUE(stream->flush(held, stream->position()));
    EXPECT_EQ(text_of(peer.receive(4)), "1-2!");
}

TEST_F(StreamTest, HoleDoesNotDelayRepliesToEarlierRequests) {
    std::string dest(2, '?');
    auto held = lock();
    append("req");
    const auto ticket = expect(dest);
    const uint64_t hole = stream->position();
    append("head");  // the header of the message with the hole
    stream->append_hole(hole, std::vector<std::byte>(100));
    ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("ok"))));
    ASSERT_TRUE(stream->await(held, ticket));
    EXPECT_EQ(dest, "ok");
    EXPECT_EQ(peer.unread(), 3u);
    stream->fill(hole);
}

// A hole may be filled after the failure: its memory lives as long as the stream.
TEST_F(StreamTest, MemoryOfAHoleOutlivesTheFailure) {
    auto held = lock();
    std::vector<std::byte> bytes(4096);
    std::byte * memory = bytes.data();
    const uint64_t hole = stream->position();
    stream->append_hole(hole, std::move(bytes));
    stream->close({Errc::io, "gone"});
    std::memset(memory, 1, 4096);
    stream->fill(hole);
    EXPECT_EQ(peer.unread(), 0u);
}

}  // namespace
}  // namespace caravan::client
