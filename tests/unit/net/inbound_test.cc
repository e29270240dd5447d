#include "net/inbound.h"

#include <gtest/gtest.h>

#include <thread>

#include "support/wire_peer.h"

namespace caravan::net {
namespace {

using test::bytes_of;
using test::noise;
using test::operator+;
using test::text_of;
using test::WirePeer;

constexpr std::chrono::nanoseconds long_stall = test::patience;

struct Line {
    Line() {
        auto pair = test::socket_pair();
        set_non_blocking(pair.near.get(), true);
        transport = *make_socket_transport(std::move(pair.near));
        peer = WirePeer(std::move(pair.far));
    }
    std::unique_ptr<Transport> transport;
    WirePeer peer;
};

// Two messages of a 3-byte header and a body, with the stream split at every position, and the first part received before
// or after the Inbound was created.
TEST(Inbound, MessagesSplitAnywhere) {
    const auto stream = bytes_of(std::string_view("one12345two6789"));
    for (const bool handed_over : {false, true}) {
        for (size_t cut = 0; cut <= stream.size(); ++cut) {
            SCOPED_TRACE(cut);
            Line line;
            const ConstBytes first = ConstBytes(stream).first(cut);
            if (!handed_over) {
                ASSERT_TRUE(line.peer.send(first));
            }
            Inbound in(*line.transport, handed_over ? first : ConstBytes(), long_stall, microseconds{0});
            std::jthread rest([&] { EXPECT_TRUE(line.peer.send(ConstBytes(stream).subspan(cut))); });
            std::string got;
            for (const size_t body : {5u, 4u}) {
                const auto head = in.peek(3, true);
                ASSERT_TRUE(head) << head.error().text;
                ASSERT_GE(head->size(), 3u);
                got += text_of(head->first(3));
                in.take(3);
                std::vector<std::byte> dest(body);
                ASSERT_TRUE(in.read_into(dest));
                got += text_of(dest);
            }
            EXPECT_EQ(got, text_of(stream));
            EXPECT_EQ(in.bytes_taken(), stream.size());
        }
    }
}

TEST(Inbound, EveryByteSentSeparately) {
    Line line;
    const auto stream = noise(4000);
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    std::jthread sender([&] {
        for (const std::byte & b : stream) {
            ASSERT_TRUE(line.peer.send({&b, 1}));
        }
    });
    for (size_t at = 0, size = 1; at < stream.size(); size = size % 97 + 1) {
        const size_t step = std::min(size, stream.size() - at);
        const auto seen = in.peek(step);
        ASSERT_TRUE(seen) << seen.error().text;
        ASSERT_TRUE(std::ranges::equal(seen->first(step), ConstBytes(stream).subspan(at, step)));
        in.take(step);
        at += step;
    }
}

// Another thread sets the limit during a wait. The silence counts from the last message.
TEST(Inbound, SilenceBetweenMessagesIsLimitedOnRequest) {
    Line line;
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    std::jthread other([&] {
        std::this_thread::sleep_for(milliseconds(50));
        in.limit_silence(seconds(3600));
        in.limit_silence(seconds(0));
        line.peer.send(bytes_of(std::string_view("one")));
        std::this_thread::sleep_for(milliseconds(50));
        in.limit_silence(milliseconds(200));
    });
    ASSERT_TRUE(in.peek(3, true));
    in.take(3);
    const TimePoint begin = Clock::now();
    const auto nothing = in.peek(3, true);
    ASSERT_FALSE(nothing);
    EXPECT_EQ(nothing.error().code, Errc::timed_out);
    EXPECT_TRUE(nothing.error().text.contains("idle for 0.2 s")) << nothing.error().text;
    EXPECT_GE(Clock::now() - begin, milliseconds(190));
}

TEST(Inbound, ArrivesWithinATime) {
    Line line;
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    EXPECT_FALSE(in.arrives_within(milliseconds(1)));
    line.peer.send(bytes_of(std::string_view("one")));
    EXPECT_TRUE(in.arrives_within(seconds(10)));
    EXPECT_EQ(in.buffered_size(), 0u) << "nothing is received";
    line.peer.close();
    EXPECT_TRUE(in.arrives_within(seconds(10)));
}

TEST(Inbound, PeekDoesNotConsume) {
    Line line;
    ASSERT_TRUE(line.peer.send(bytes_of(std::string_view("abc"))));
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    EXPECT_EQ(text_of(in.peek(2).value().first(2)), "ab");
    EXPECT_EQ(text_of(in.peek(3).value().first(3)), "abc");
    EXPECT_EQ(in.bytes_taken(), 0u);
}

// The longest peek works at every fill level of the buffer.
TEST(Inbound, LongPeeksAtEveryOffset) {
    Line line;
    const auto stream = noise(3 << 20);
    std::jthread sender([&] { EXPECT_TRUE(line.peer.send(stream)); });
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    for (size_t at = 0, step = 1; at + Inbound::max_peek <= stream.size(); step = step * 7 % 65537) {
        const auto seen = in.peek(Inbound::max_peek);
        ASSERT_TRUE(seen) << seen.error().text;
        ASSERT_TRUE(std::ranges::equal(seen->first(Inbound::max_peek), ConstBytes(stream).subspan(at, Inbound::max_peek)));
        in.take(std::min(step, Inbound::max_peek));
        at += std::min(step, Inbound::max_peek);
    }
}

TEST(Inbound, ALongPayloadLeavesTheNextMessageIntact) {
    Line line;
    const auto payload = noise(10 << 20);
    std::jthread sender([&] {
        EXPECT_TRUE(line.peer.send(bytes_of(uint64_t{payload.size()}) + payload + bytes_of(std::string_view("next"))));
    });
    Inbound in(*line.transport, {}, long_stall, microseconds{50});
    ASSERT_EQ(load<uint64_t>(in.peek(8, true).value().data()), payload.size());
    in.take(8);
    std::vector<std::byte> dest(payload.size());
    ASSERT_TRUE(in.read_into(dest));
    EXPECT_EQ(dest, payload);
    EXPECT_EQ(text_of(in.peek(4, true).value().first(4)), "next");
    EXPECT_EQ(in.bytes_taken(), 8 + payload.size());
}

TEST(Inbound, ReadPiecesStopsAtTheGivenSize) {
    Line line;
    const auto payload = noise(1 << 20);
    std::jthread sender([&] { EXPECT_TRUE(line.peer.send(payload + bytes_of(std::string_view("next")))); });
    Inbound in(*line.transport, {}, long_stall, microseconds{0});
    std::vector<std::byte> collected;
    ASSERT_TRUE(in.read_pieces(payload.size(), [&](ConstBytes piece) {
        EXPECT_FALSE(piece.empty());
        collected.insert(collected.end(), piece.begin(), piece.end());
    }));
    EXPECT_EQ(collected, payload);
    EXPECT_EQ(text_of(in.peek(4, true).value().first(4)), "next");
    ASSERT_TRUE(in.read_pieces(0, [](ConstBytes) { FAIL() << "no bytes were requested"; }));
}

TEST(Inbound, StallWithinAHeaderTimesOut) {
    Line line;
    ASSERT_TRUE(line.peer.send(bytes_of(std::string_view("he"))));
    Inbound in(*line.transport, {}, milliseconds(30), microseconds{0});
    const TimePoint start = Clock::now();
    const auto head = in.peek(9, true);
    ASSERT_FALSE(head);
    EXPECT_EQ(head.error().code, Errc::timed_out);
    EXPECT_GE(Clock::now() - start, milliseconds(30));
}

TEST(Inbound, StallWithinAPayloadTimesOut) {
    Line line;
    ASSERT_TRUE(line.peer.send(bytes_of(std::string_view("half"))));
    Inbound in(*line.transport, {}, milliseconds(30), microseconds{0});
    std::vector<std::byte> dest(8);
    auto read = in.read_into(dest);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Errc::timed_out);

    ASSERT_TRUE(line.peer.send(bytes_of(std::string_view("half"))));
    read = in.read_pieces(8, [](ConstBytes) {});
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Errc::timed_out);
}

// Clients that wait for a session wake up those that have one.
TEST(Inbound, WakeUpsAreNoProgress) {
    Line line;
    ASSERT_TRUE(line.peer.send(bytes_of(std::string_view("half"))));
    Inbound in(*line.transport, {}, milliseconds(50), microseconds{0});
    std::atomic<bool> is_done = false;
    std::thread waking([&] {
        for (int i = 0; i < 1000 && !is_done; ++i) {
            line.transport->wake();
            std::this_thread::sleep_for(milliseconds(5));
        }
    });
    std::vector<std::byte> dest(8);
    const std::vector<std::byte> long_reply(64 << 20);
    const TimePoint begin = Clock::now();
    const auto read = in.read_into(dest), sent = send_all(*line.transport, {long_reply}, milliseconds(50));
    const auto peeked = in.peek(1);
    is_done = true;
    waking.join();
    for (const auto & result : {read, sent}) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::timed_out);
    }
    ASSERT_FALSE(peeked);
    EXPECT_EQ(peeked.error().code, Errc::timed_out);
    EXPECT_LT(Clock::now() - begin, seconds(4)) << "the thread would have woken it up for 5 s";
}

// The first byte arrives after several times the stall limit. A stub of wait() checks the deadlines.
TEST(Inbound, SilenceBetweenMessagesIsNotAStall) {
    struct Slow final : Transport {
        Result<size_t> send(std::span<const ConstBytes>) override { return size_t{0}; }
        Result<size_t> receive(std::span<const MutableBytes> parts) override {
            if (waits < 5) {
                return size_t{0};
            }
            parts[0][0] = std::byte{'x'};
            return size_t{1};
        }
        Result<bool> wait(Interest, TimePoint deadline, microseconds) override {
            ++waits;
            EXPECT_EQ(deadline, no_deadline);
            return true;
        }
        void wake() override {}
        TransportKind kind() const override { return TransportKind::tcp; }
        int waits = 0;
    } slow;
    Inbound in(slow, {}, std::chrono::nanoseconds(1), microseconds{0});
    EXPECT_TRUE(in.peek(1, true));
    EXPECT_EQ(slow.waits, 5);
}

TEST(Inbound, EndOfStreamIsClosedAtAnyPosition) {
    for (const char * sent : {"", "he"}) {
        Line line;
        ASSERT_TRUE(line.peer.send(bytes_of(std::string_view(sent))));
        line.peer.close();
        Inbound in(*line.transport, {}, long_stall, microseconds{0});
        const auto head = in.peek(9, true);
        ASSERT_FALSE(head);
        EXPECT_EQ(head.error().code, Errc::closed);
        std::vector<std::byte> dest(9);
        const auto read = in.read_into(dest);
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().code, Errc::closed);
    }
}

TEST(SendAll, DeliversEverythingThroughAFullSocket) {
    Line line;
    const auto head = bytes_of(std::string_view("head")), payload = noise(4 << 20);
    std::vector<std::byte> got;
    std::jthread reader([&] { got = line.peer.receive(head.size() + payload.size()); });
    std::vector<ConstBytes> parts{ConstBytes(head), ConstBytes()};
    for (size_t at = 0; at < payload.size(); at += 1 << 14) {  // more parts than fit one call
        parts.push_back(ConstBytes(payload).subspan(at, 1 << 14));
    }
    parts.emplace_back();
    ASSERT_TRUE(send_all(*line.transport, parts, long_stall));
    reader.join();
    EXPECT_EQ(got, head + payload);
}

TEST(SendAll, NothingToSendReturnsAtOnce) {
    Line line;
    EXPECT_TRUE(send_all(*line.transport, {}, long_stall));
    EXPECT_TRUE(send_all(*line.transport, {ConstBytes(), ConstBytes()}, long_stall));
    EXPECT_EQ(line.peer.unread(), 0u);
}

TEST(SendAll, PeerThatDoesNotReadTimesOut) {
    Line line;
    const auto payload = noise(8 << 20);
    const auto sent = send_all(*line.transport, {ConstBytes(payload)}, milliseconds(30));
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::timed_out);
}

TEST(SendAll, ClosedPeerIsAReset) {
    Line line;
    line.peer.close();
    const auto payload = noise(100);
    const auto sent = send_all(*line.transport, {ConstBytes(payload)}, long_stall);
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::reset);
}

}  // namespace
}  // namespace caravan::net
