#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "support/stream_line.h"

namespace caravan::client {
namespace {

using stream_line::Line;
using stream_line::StreamTest;
using stream_line::long_timeout;
using test::bytes_of;
using test::noise;
using test::operator+;
using test::text_of;

TEST_F(StreamTest, FlushSendsTheBatchInOnePiece) {
    auto held = lock();
    append("one ");
    append("two ");
    append("three");
    EXPECT_EQ(stream->unsent(), 13u);
    EXPECT_EQ(peer.unread(), 0u);
    ASSERT_TRUE(stream->flush(held, stream->position()));
    EXPECT_EQ(peer.unread(), 13u);
    EXPECT_EQ(text_of(peer.receive(13)), "one two three");
    EXPECT_EQ(sends, 1);
    EXPECT_EQ(stream->counts().sends, 1u);
    EXPECT_EQ(stream->unsent(), 0u);
    ASSERT_TRUE(stream->flush(held, stream->position()));
    EXPECT_EQ(stream->counts().sends, 1u) << "nothing to flush";
}

TEST_F(StreamTest, PayloadIsSentAfterTheBatch) {
    const auto payload = noise(4 << 20);
    const auto whole = bytes_of(std::string_view("head:")) + payload + bytes_of(std::string_view("next"));
    std::jthread reader([&] { EXPECT_EQ(peer.receive(whole.size()), whole); });
    auto held = lock();
    append("head:");
    {
        const auto mine = payload;
        ASSERT_TRUE(stream->send(held, mine));
    }  // `mine` may be freed after send()
    append("next");
    ASSERT_TRUE(stream->flush(held, stream->position()));
    ASSERT_TRUE(stream->send(held, {}));
}

TEST_F(StreamTest, RepliesAreReceivedInOrderIntoTheirMemory) {
    std::string first(3, '?'), empty, second(5, '?');
    auto held = lock();
    append("req");
    const auto one = expect(first);
    append("req");
    const auto none = expect(empty);
    append("req");
    const auto two = expect(second);
    ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("abc"))));
    ASSERT_TRUE(peer.reply_bytes({}));
    ASSERT_TRUE(stream->await(held, none));
    EXPECT_EQ(first, "abc");
    EXPECT_TRUE(stream->is_done(one));
    EXPECT_FALSE(stream->is_done(two));
    ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("defgh"))));
    ASSERT_TRUE(stream->await(held, two));
    EXPECT_EQ(second, "defgh");
    EXPECT_EQ(peer.unread(), 9u) << "await() flushes";
    ASSERT_TRUE(stream->await(held, {})) << "an empty ticket is always done";
}

TEST_F(StreamTest, CountsSendsBytesAndRoundTrips) {
    std::string first(3, '?'), second(3, '?'), third(3, '?');
    auto held = lock();
    append("requests");
    const auto one = expect(first), two = expect(second);
    ASSERT_TRUE(stream->flush(held, stream->position()));
    std::jthread server([&] {
        EXPECT_EQ(text_of(peer.receive(8)), "requests");
        ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("abc"))));
        ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("def"))));
        EXPECT_EQ(text_of(peer.receive(4)), "more");
        ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("ghi"))));
    });
    ASSERT_TRUE(stream->await(held, one));
    ASSERT_TRUE(stream->await(held, two));
    EXPECT_EQ(stream->counts().round_trips, 1u) << "both replies are to one send";
    append("more");
    const auto more = expect(third);
    ASSERT_TRUE(stream->await(held, more));
    ASSERT_TRUE(stream->await(held, more)) << "it has arrived";
    const StreamCounts & counts = stream->counts();
    EXPECT_EQ(counts.round_trips, 2u);
    EXPECT_EQ(counts.sends, 2u);
    EXPECT_EQ(counts.bytes_sent, 12u);
    EXPECT_EQ(counts.bytes_received, 3 * (8 + 3u));
    EXPECT_GT(counts.waiting_ns, 0u);
    EXPECT_GT(counts.sending_ns, 0u);
    EXPECT_EQ((counts - counts).bytes_sent, 0u);
}

TEST_F(StreamTest, ReplyInSingleBytes) {
    std::string dest(40, '?');
    const auto payload = noise(40);
    std::jthread server([&] {
        EXPECT_EQ(text_of(peer.receive(3)), "req");
        for (const std::byte b : bytes_of(uint64_t{40}) + payload) {
            ASSERT_TRUE(peer.send({&b, 1}));
        }
    });
    auto held = lock();
    append("req");
    ASSERT_TRUE(stream->await(held, expect(dest)));
    EXPECT_EQ(bytes_of(std::string_view(dest)), payload);
}

TEST(Stream, ReplyOfWrongSizeFailsTheStreamAndReadsAsZeroes) {
    for (const size_t wrong : {0u, 3u, 5u, 4000u}) {
        Line fresh(long_timeout);
        std::string first(4, '?'), second(4, '?'), third(4, '?');
        auto held = fresh.lock();
        fresh.append("req");
        const auto ticket = fresh.expect(first);
        const auto next = fresh.expect(second);
        ASSERT_TRUE(fresh.peer.reply_bytes(noise(wrong)));
        const auto waited = fresh.stream->await(held, ticket);
        ASSERT_FALSE(waited) << wrong;
        EXPECT_EQ(waited.error().code, Errc::protocol);
        ASSERT_TRUE(fresh.stream->failure());
        EXPECT_TRUE(fresh.stream->is_done(next));
        EXPECT_FALSE(fresh.stream->await(held, next));
        fresh.expect(third);
        EXPECT_EQ(first + second + third, std::string(12, '\0'));
    }
}

TEST_F(StreamTest, PeerThatClosesWithinAReplyReadsAsZeroes) {
    std::string first(3, '?'), second(8, '?');
    auto held = lock();
    const auto one = expect(first);
    const auto two = expect(second);
    ASSERT_TRUE(peer.reply_bytes(bytes_of(std::string_view("abc"))));
    ASSERT_TRUE(peer.send(bytes_of(uint64_t{8}) + bytes_of(std::string_view("half"))));
    peer.close();
    (void) stream->await(held, one);  // may have received the end already
    const auto waited = stream->await(held, two);
    ASSERT_FALSE(waited);
    EXPECT_EQ(waited.error().code, Errc::closed);
    EXPECT_EQ(first, "abc") << "a complete reply is kept";
    EXPECT_EQ(second, std::string(8, '\0'));
}

TEST_F(StreamTest, AfterAFailureNothingBlocks) {
    peer.close();
    std::string dest(4, '?');
    auto held = lock();
    append("req");
    EXPECT_FALSE(stream->flush(held, stream->position()));
    ASSERT_TRUE(stream->failure());
    append("more");
    const auto ticket = expect(dest);
    EXPECT_EQ(dest, std::string(4, '\0'));
    EXPECT_FALSE(stream->flush(held, stream->position()));
    EXPECT_FALSE(stream->await(held, ticket));
    const auto payload = noise(1 << 20);
    EXPECT_FALSE(stream->send(held, payload));
    stream->close({Errc::io, "another reason"});
    EXPECT_EQ(stream->failure()->code, Errc::reset) << "the first error is kept";
}

// The peer reads nothing until all its replies were accepted, so the buffers of both directions are full.
TEST_F(StreamTest, FullBuffersInBothDirectionsDoNotDeadlock) {
    constexpr size_t piece = 1 << 20, pieces = 8;
    const auto payload = noise(pieces * piece, 1), replies = noise(pieces * piece, 2);
    std::vector<std::byte> uploaded;
    std::jthread server([&] {
        for (size_t i = 0; i < pieces; ++i) {
            ASSERT_TRUE(peer.send(bytes_of(uint64_t{piece})));
            ASSERT_TRUE(peer.send(ConstBytes(replies).subspan(i * piece, piece)));
        }
        uploaded = peer.receive(3 + payload.size());
    });
    std::vector<std::byte> got(replies.size());
    auto held = lock();
    append("req");
    Stream::Ticket last;
    for (size_t i = 0; i < pieces; ++i) {
        last = stream->expect(MutableBytes(got).subspan(i * piece, piece));
    }
    ASSERT_TRUE(stream->send(held, payload));
    ASSERT_TRUE(stream->await(held, last));
    server.join();
    EXPECT_EQ(got, replies);
    EXPECT_EQ(uploaded, bytes_of(std::string_view("req")) + payload);
}

TEST_F(StreamTest, IsDestroyedWithRepliesAndHolesPending) {
    std::string dest(4, '?');
    {
        auto held = lock();
        append("req");
        expect(dest);
        stream->append_hole(stream->position(), std::vector<std::byte>(10));
    }
    stream.reset();
    EXPECT_TRUE(peer.at_end()) << "an unflushed batch is not sent";
    EXPECT_EQ(dest, "????");
}

TEST_F(StreamTest, BatchesOfAllSizes) {
    std::vector<std::byte> sent;
    std::vector<std::byte> got;
    std::jthread reader([&] {
        std::byte buffer[4096];
        for (ssize_t n; (n = ::recv(peer.fd(), buffer, sizeof buffer, 0)) > 0;) {
            got.insert(got.end(), buffer, buffer + n);
        }
    });
    {
        auto held = lock();
        for (uint32_t i = 0; i < 2000; ++i) {
            const auto piece = noise(i * 37 % 5000, i);
            sent.insert(sent.end(), piece.begin(), piece.end());
            if (i % 11 == 3) {
                ASSERT_TRUE(stream->send(held, piece));
            } else if (i % 13 == 4) {
                const uint64_t hole = stream->position();
                stream->append_hole(hole, piece);
                stream->fill(hole);
            } else {
                std::ranges::copy(piece, stream->append(piece.size()).begin());
            }
            if (i % 7 == 0) {
                ASSERT_TRUE(stream->flush(held, stream->position()));
            }
        }
        ASSERT_TRUE(stream->flush(held, stream->position()));
    }
    stream.reset();
    reader.join();
    EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace caravan::client
