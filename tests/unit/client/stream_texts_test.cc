// Texts of a native server between replies, or instead of one.
#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "support/stream_line.h"

namespace caravan::client {
namespace {

using stream_line::Line;
using stream_line::StreamTest;
using stream_line::long_timeout;
using stream_line::text_reply;
using test::bytes_of;
using test::operator+;

TEST(Stream, TextsBetweenRepliesInPiecesOfAnySize) {
    for (const size_t piece : {size_t{1}, size_t{9}, size_t{1 << 20}}) {
        Line line(long_timeout);
        std::string first(4, '?'), second(4, '?'), third(4, '?');
        auto held = line.lock();
        line.stream->count_launch();
        const auto one = line.expect(first), two = line.stream->expect(mutable_bytes(second.data(), second.size()), true),
                   three = line.expect(third);
        const std::string longest(wire::max_error_text, 'x');
        const auto all = text_reply(wire::ReplyKind::launch_failed, longest) + bytes_of(uint64_t{4}) +
                         bytes_of(std::string_view("good")) + text_reply(wire::ReplyKind::refused, "no\x1b") +
                         bytes_of(uint64_t{4}) + bytes_of(std::string_view("last"));
        std::jthread server([&] {
            for (size_t at = 0; at < all.size(); at += piece) {
                line.peer.send(ConstBytes(all).subspan(at, std::min(piece, all.size() - at)));
            }
        });
        EXPECT_TRUE(line.stream->await(held, one));
        EXPECT_EQ(line.stream->take_launch_failure(), longest);
        EXPECT_TRUE(line.stream->await(held, two));
        EXPECT_EQ(line.stream->take_refusal(), "no?") << "texts are printed to a log";
        EXPECT_TRUE(line.stream->await(held, three));
        EXPECT_EQ(first + second + third, "good" + std::string(4, '\0') + "last");
        EXPECT_FALSE(line.stream->failure());
    }
}

TEST(Stream, UnexpectedRefusalFailsTheStream) {
    Line line(long_timeout);
    std::string reply(4, '?');
    auto held = line.lock();
    const auto ticket = line.expect(reply);
    line.peer.send(text_reply(wire::ReplyKind::refused, "no"));
    EXPECT_EQ(line.stream->await(held, ticket).error().code, Errc::protocol);
    EXPECT_EQ(reply, std::string(4, '\0'));
}

// Each text counts as progress, so a server that sends them without end would never time out.
TEST(Stream, MoreFailedLaunchesThanWereSentFailTheStream) {
    Line line(long_timeout);
    std::string reply(4, '?');
    auto held = line.lock();
    line.stream->count_launch();
    line.stream->count_launch();
    const auto ticket = line.expect(reply);
    for (int i = 0; i < 3; ++i) {
        line.peer.send(text_reply(wire::ReplyKind::launch_failed, "no"));
    }
    const auto waited = line.stream->await(held, ticket);
    ASSERT_FALSE(waited);
    EXPECT_EQ(waited.error().code, Errc::protocol);
    EXPECT_EQ(line.stream->take_launch_failure(), "no");
}

// Data may be computed from, or left by, a launch that failed.
TEST_F(StreamTest, DataAfterFailedLaunchIsAbsentUntilTheFailureIsTaken) {
    const std::string none(4, '\xff');
    std::string first(4, '?'), second(4, '?'), third(4, '?'), count(4, '?');
    auto held = lock();
    const auto expect_data = [&](std::string & dest) {
        return stream->expect_data(mutable_bytes(dest.data(), dest.size()), Stream::Absent::nan);
    };
    stream->count_launch();
    const auto one = expect_data(first);
    const auto number = expect(count);
    const auto reply = bytes_of(uint64_t{4}) + bytes_of(std::string_view("data"));
    peer.send(text_reply(wire::ReplyKind::launch_failed, "no") + reply + reply);
    ASSERT_TRUE(stream->await(held, number));
    EXPECT_TRUE(stream->is_done(one));
    EXPECT_EQ(first, none);
    EXPECT_EQ(count, "data") << "not tensor data";
    const auto two = expect_data(second);  // requested before the failure is taken
    EXPECT_EQ(stream->take_launch_failure(), "no");
    const auto three = expect_data(third);
    peer.send(reply + reply);
    ASSERT_TRUE(stream->await(held, three));
    EXPECT_TRUE(stream->is_done(two));
    EXPECT_EQ(second, none);
    EXPECT_EQ(third, "data");
}

// The client never awaits a reply of a server that pushes all its results to another one.
TEST_F(StreamTest, FailedLaunchIsReceivedWithoutPendingReply) {
    auto held = lock();
    stream->count_launch();
    std::this_thread::sleep_for(milliseconds(3));
    const auto text = text_reply(wire::ReplyKind::launch_failed, "no");
    peer.send(ConstBytes(text).first(9));
    ASSERT_TRUE(stream->confirm(held));
    EXPECT_FALSE(stream->take_launch_failure()) << "the text is incomplete";
    std::this_thread::sleep_for(milliseconds(3));
    peer.send(ConstBytes(text).subspan(9));
    ASSERT_TRUE(stream->confirm(held));
    EXPECT_EQ(stream->take_launch_failure(), "no");
    std::string reply(4, '?');
    const auto ticket = expect(reply);
    peer.send(bytes_of(uint64_t{4}) + bytes_of(std::string_view("good")));
    ASSERT_TRUE(stream->await(held, ticket));
    EXPECT_EQ(reply, "good");
}

TEST(Stream, TextThatEndsTheSession) {
    Line line(long_timeout);
    std::string reply(4, '?');
    auto held = line.lock();
    const auto ticket = line.expect(reply);
    line.peer.send(text_reply(wire::ReplyKind::ended, "that was too much"));
    const auto waited = line.stream->await(held, ticket);
    ASSERT_FALSE(waited);
    EXPECT_TRUE(waited.error().text.contains("that was too much")) << waited.error().text;
    EXPECT_EQ(reply, std::string(4, '\0'));
}

TEST(Stream, MalformedHeaderFailsTheStream) {
    const auto header = [](uint8_t kind, uint64_t size) { return size | uint64_t{kind} << wire::reply_kind_shift; };
    for (const uint64_t nonsense : {header(4, 4), header(255, 4), header(2, wire::max_error_text + 1), header(3, 1 << 20),
                                    header(1, wire::reply_size_mask), header(2, 4000)}) {
        Line line(long_timeout);
        std::string reply(4, '?');
        auto held = line.lock();
        const auto ticket = line.expect(reply);
        ASSERT_TRUE(line.peer.send(bytes_of(nonsense) + std::vector(4000, std::byte{'x'})));
        const auto waited = line.stream->await(held, ticket);
        ASSERT_FALSE(waited) << nonsense;
        EXPECT_EQ(waited.error().code, Errc::protocol);
        EXPECT_TRUE(waited.error().text.contains("malformed reply header")) << waited.error().text;
    }
}

TEST(Stream, PeerThatClosesWithinAText) {
    Line line(long_timeout);
    std::string reply(4, '?');
    auto held = line.lock();
    const auto ticket = line.expect(reply);
    const auto all = text_reply(wire::ReplyKind::refused, "half of this");
    line.peer.send(ConstBytes(all).first(all.size() - 6));
    line.peer.close();
    EXPECT_EQ(line.stream->await(held, ticket).error().code, Errc::closed);
    EXPECT_EQ(reply, std::string(4, '\0'));
}

}  // namespace
}  // namespace caravan::client
