#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <latch>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "support/wire_peer.h"

namespace caravan::client {
namespace {

using test::bytes_of;
using test::noise;
using test::operator+;
using test::text_of;
using test::WirePeer;

constexpr std::chrono::nanoseconds long_timeout = test::patience;

// Counts the calls in which the transport accepted bytes.
class Counting final : public net::Transport {
public:
    Counting(std::unique_ptr<net::Transport> inner, std::atomic<int> & sends) : inner_(std::move(inner)), sends_(sends) {}
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        auto sent = inner_->send(parts);
        sends_ += sent && *sent > 0 ? 1 : 0;
        return sent;
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override { return inner_->receive(parts); }
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override {
        return inner_->wait(interest, deadline, spin);
    }
    void wake() override { inner_->wake(); }
    net::TransportKind kind() const override { return inner_->kind(); }

private:
    std::unique_ptr<net::Transport> inner_;
    std::atomic<int> & sends_;
};

// A stream and its peer.
struct Line {
    explicit Line(std::chrono::nanoseconds timeout) {
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        peer = WirePeer(std::move(pair.far));
        stream.emplace(std::make_unique<Counting>(*net::make_socket_transport(std::move(pair.near)), sends), timeout,
                       microseconds{20});
    }

    Stream::Lock lock() { return Stream::Lock(stream->mutex()); }
    void append(std::string_view text) { std::memcpy(stream->append(text.size()).data(), text.data(), text.size()); }
    Stream::Ticket expect(std::string & dest) { return stream->expect(mutable_bytes(dest.data(), dest.size())); }

    std::atomic<int> sends = 0;
    WirePeer peer;
    std::optional<Stream> stream;
};

struct StreamTest : testing::Test, Line {
    StreamTest() : Line(long_timeout) {}
};

struct ImpatientStreamTest : testing::Test, Line {
    ImpatientStreamTest() : Line(milliseconds(40)) {}
};

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
    ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("abc"))));
    ASSERT_TRUE(peer.answer_bytes({}));
    ASSERT_TRUE(stream->await(held, none));
    EXPECT_EQ(first, "abc");
    EXPECT_TRUE(stream->is_done(one));
    EXPECT_FALSE(stream->is_done(two));
    ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("defgh"))));
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
        ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("abc"))));
        ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("def"))));
        EXPECT_EQ(text_of(peer.receive(4)), "more");
        ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("ghi"))));
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
        ASSERT_TRUE(fresh.peer.answer_bytes(noise(wrong)));
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

// A text of a native server: a refusal, a failed launch or the end of the session.
std::vector<std::byte> text_reply(wire::AnswerKind kind, std::string_view text) {
    return bytes_of(uint64_t{text.size()} | uint64_t{static_cast<uint8_t>(kind)} << wire::answer_kind_shift) + bytes_of(text);
}

TEST(Stream, TextsBetweenRepliesInPiecesOfAnySize) {
    for (const size_t piece : {size_t{1}, size_t{9}, size_t{1 << 20}}) {
        Line line(long_timeout);
        std::string first(4, '?'), second(4, '?'), third(4, '?');
        auto held = line.lock();
        line.stream->count_launch();
        const auto one = line.expect(first), two = line.stream->expect(mutable_bytes(second.data(), second.size()), true),
                   three = line.expect(third);
        const std::string longest(wire::max_error_text, 'x');
        const auto all = text_reply(wire::AnswerKind::launch_failed, longest) + bytes_of(uint64_t{4}) +
                         bytes_of(std::string_view("good")) + text_reply(wire::AnswerKind::refused, "no\x1b") +
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
    line.peer.send(text_reply(wire::AnswerKind::refused, "no"));
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
        line.peer.send(text_reply(wire::AnswerKind::launch_failed, "no"));
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
    peer.send(text_reply(wire::AnswerKind::launch_failed, "no") + reply + reply);
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
    const auto text = text_reply(wire::AnswerKind::launch_failed, "no");
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

std::mutex lines_mutex;
std::vector<std::string> lines;

TEST_F(StreamTest, StallAndItsEndAreLogged) {
    lines.clear();
    set_log_sink([](LogLevel, std::string_view line) {
        const std::lock_guard guard(lines_mutex);
        lines.emplace_back(line);
    });
    stream->log_stalls("10.0.0.2:50052", milliseconds(30));
    std::string reply(4, '?');
    for (const int stall_ms : {0, 150}) {
        auto held = lock();
        const auto ticket = expect(reply);
        std::jthread server([&] {
            std::this_thread::sleep_for(milliseconds(stall_ms));
            peer.answer_bytes(bytes_of(std::string_view("good")));
        });
        ASSERT_TRUE(stream->await(held, ticket));
    }
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_TRUE(lines[0].starts_with("RPC server 10.0.0.2:50052: no progress for 0 s")) << lines[0];
    EXPECT_TRUE(lines[1].starts_with("RPC server 10.0.0.2:50052: progress again after 0.")) << lines[1];
}

TEST_F(StreamTest, ConfirmFailsIfThePeerClosed) {
    auto held = lock();
    std::this_thread::sleep_for(milliseconds(3));
    ASSERT_TRUE(stream->confirm(held));
    std::this_thread::sleep_for(milliseconds(3));
    peer.close();
    EXPECT_FALSE(stream->confirm(held));
}

TEST_F(StreamTest, ConfirmFailsIfThePeerClosedWhileAReplyIsPending) {
    std::string reply(4, '?');
    auto held = lock();
    expect(reply);
    std::this_thread::sleep_for(milliseconds(3));
    peer.close();
    EXPECT_FALSE(stream->confirm(held));
}

// A broken connection. wait() resumes it, or reports its loss.
class Broken final : public net::Transport {
public:
    explicit Broken(bool is_lost) : is_lost_(is_lost) {}
    Result<size_t> send(std::span<const ConstBytes>) override { return 0; }
    Result<size_t> receive(std::span<const MutableBytes>) override { return 0; }
    Result<bool> wait(net::Interest, TimePoint, microseconds) override {
        if (is_lost_) {
            return fail(Errc::timed_out, "it does not come back");
        }
        is_connected_ = ++waits_ > 1;
        return false;
    }
    void wake() override {}
    bool is_connected() const override { return is_connected_ || is_lost_; }
    net::TransportKind kind() const override { return net::TransportKind::tcp; }

private:
    const bool is_lost_;
    int waits_ = 0;
    bool is_connected_ = false;
};

TEST(Stream, ConfirmWaitsUntilABrokenConnectionIsResumedOrLost) {
    for (const bool is_lost : {false, true}) {
        auto transport = std::make_unique<Broken>(is_lost);
        const Broken & connection = *transport;
        Stream stream(std::move(transport), long_timeout, microseconds{20});
        std::this_thread::sleep_for(milliseconds(3));
        Stream::Lock held(stream.mutex());
        EXPECT_EQ(stream.confirm(held).has_value(), !is_lost);
        EXPECT_TRUE(connection.is_connected());
    }
}

TEST(Stream, TextThatEndsTheSession) {
    Line line(long_timeout);
    std::string reply(4, '?');
    auto held = line.lock();
    const auto ticket = line.expect(reply);
    line.peer.send(text_reply(wire::AnswerKind::ended, "that was too much"));
    const auto waited = line.stream->await(held, ticket);
    ASSERT_FALSE(waited);
    EXPECT_TRUE(waited.error().text.contains("that was too much")) << waited.error().text;
    EXPECT_EQ(reply, std::string(4, '\0'));
}

TEST(Stream, MalformedHeaderFailsTheStream) {
    const auto header = [](uint8_t kind, uint64_t size) { return size | uint64_t{kind} << wire::answer_kind_shift; };
    for (const uint64_t nonsense : {header(4, 4), header(255, 4), header(2, wire::max_error_text + 1), header(3, 1 << 20),
                                    header(1, wire::answer_size_mask), header(2, 4000)}) {
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
    const auto all = text_reply(wire::AnswerKind::refused, "half of this");
    line.peer.send(ConstBytes(all).first(all.size() - 6));
    line.peer.close();
    EXPECT_EQ(line.stream->await(held, ticket).error().code, Errc::closed);
    EXPECT_EQ(reply, std::string(4, '\0'));
}

TEST_F(StreamTest, PeerThatClosesWithinAReplyReadsAsZeroes) {
    std::string first(3, '?'), second(8, '?');
    auto held = lock();
    const auto one = expect(first);
    const auto two = expect(second);
    ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("abc"))));
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

TEST_F(ImpatientStreamTest, SilentPeerTimesOut) {
    std::string dest(4, '?');
    auto held = lock();
    append("req");
    const auto waited = stream->await(held, expect(dest));
    ASSERT_FALSE(waited);
    EXPECT_EQ(waited.error().code, Errc::timed_out);
    EXPECT_EQ(dest, std::string(4, '\0'));
}

TEST_F(ImpatientStreamTest, PeerThatDoesNotReadTimesOut) {
    const auto payload = noise(8 << 20);
    auto held = lock();
    const auto sent = stream->send(held, payload);
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::timed_out);
}

TEST(Stream, PeerThatTricklesTimesOut) {
    Line line(milliseconds(300));
    std::string dest(300, '?');
    const auto reply = bytes_of(uint64_t{dest.size()}) + noise(dest.size());
    std::jthread server([&](const std::stop_token & stop) {
        for (size_t i = 0; i < reply.size() && !stop.stop_requested(); ++i) {
            line.peer.send(ConstBytes(reply).subspan(i, 1));
            std::this_thread::sleep_for(milliseconds(10));  // 100 bytes a second
        }
    });
    auto held = line.lock();
    line.append("req");
    const auto waited = line.stream->await(held, line.expect(dest));
    ASSERT_FALSE(waited) << "single bytes must not count as progress";
    EXPECT_EQ(waited.error().code, Errc::timed_out);
}

// Accepts one byte every ten milliseconds.
class TakesFewBytes final : public net::Transport {
public:
    Result<size_t> send(std::span<const ConstBytes>) override {
        const bool is_time = Clock::now() >= next_;
        next_ = is_time ? Clock::now() + milliseconds(10) : next_;
        return is_time ? 1 : 0;
    }
    Result<size_t> receive(std::span<const MutableBytes>) override { return 0; }
    Result<bool> wait(net::Interest, TimePoint deadline, microseconds) override {
        std::this_thread::sleep_until(std::min(deadline, next_));
        return next_ < deadline;
    }
    void wake() override {}
    net::TransportKind kind() const override { return net::TransportKind::tcp; }

private:
    TimePoint next_{};
};

TEST(Stream, PeerThatAcceptsATrickleTimesOut) {
    Stream stream(std::make_unique<TakesFewBytes>(), milliseconds(40), microseconds{0});
    Stream::Lock held(stream.mutex());
    (void)stream.append(200);
    const auto sent = stream.flush(held, stream.position());
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::timed_out);
}

// Slower than any network in use, but faster than min_rate. The reply takes longer than the time-out.
TEST(Stream, SlowNetworkDoesNotTimeOut) {
    Line line(seconds(2));
    std::string dest(6000, '?');
    const auto reply = bytes_of(uint64_t{dest.size()}) + noise(dest.size());
    std::jthread server([&] {
        for (ConstBytes rest = reply; !rest.empty();) {
            const size_t piece = std::min<size_t>(rest.size(), 200);
            if (!line.peer.send(rest.first(piece))) {
                return;
            }
            rest = rest.subspan(piece);
            std::this_thread::sleep_for(milliseconds(100));
        }
    });
    auto held = line.lock();
    line.append("req");
    const TimePoint begin = Clock::now();
    EXPECT_TRUE(line.stream->await(held, line.expect(dest)));
    EXPECT_GT(Clock::now() - begin, seconds(2));
    EXPECT_EQ(bytes_of(std::string_view(dest)), noise(dest.size()));
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

TEST_F(StreamTest, TwoThreadsAwaitDifferentReplies) {
    constexpr int rounds = 300;
    std::jthread server([&] {
        for (int i = 0; i < 2 * rounds; ++i) {
            const auto number = load<uint32_t>(peer.receive(4).data());
            ASSERT_TRUE(peer.answer(number * 3));
        }
    });
    const auto client = [&](uint32_t start) {
        for (uint32_t i = 0; i < rounds; ++i) {
            const uint32_t number = start + i;
            uint32_t reply = 0;
            auto held = lock();
            store(stream->append(4).data(), number);
            ASSERT_TRUE(stream->await(held, stream->expect(mutable_bytes(&reply, 4))));
            ASSERT_EQ(reply, number * 3);
        }
    };
    std::jthread other([&] { client(1'000'000); });
    client(0);
}

TEST_F(StreamTest, TicketsAreAwaitedInAnyOrder) {
    std::string first(1, '?'), second(1, '?');
    Stream::Ticket one, two;
    {
        auto held = lock();
        append("ab");
        one = expect(first);
        two = expect(second);
    }
    std::latch ready(2);
    const auto wait_for = [&](Stream::Ticket ticket) {
        ready.count_down();
        auto held = lock();
        EXPECT_TRUE(stream->await(held, ticket));
    };
    std::jthread early([&] { wait_for(one); });
    std::jthread late([&] { wait_for(two); });
    ready.wait();
    EXPECT_EQ(text_of(peer.receive(2)), "ab");
    ASSERT_TRUE(peer.answer('1'));
    early.join();
    EXPECT_EQ(first, "1");
    ASSERT_TRUE(peer.answer('2'));
    late.join();
    EXPECT_EQ(second, "2");
}

// One thread sleeps on the transport to read while another sends a long payload.
TEST_F(StreamTest, ThreadSendsWhileAnotherWaits) {
    std::string dest(4, '?');
    std::latch waiting(1);
    std::jthread waiter([&] {
        auto held = lock();
        append("req!");
        const auto ticket = expect(dest);
        waiting.count_down();
        EXPECT_TRUE(stream->await(held, ticket));
    });
    waiting.wait();
    const auto payload = noise(8 << 20);
    std::jthread server([&] {
        EXPECT_EQ(peer.receive(4 + payload.size()), bytes_of(std::string_view("req!")) + payload);
        EXPECT_TRUE(peer.answer_bytes(bytes_of(std::string_view("done"))));
    });
    {
        auto held = lock();
        ASSERT_TRUE(stream->send(held, payload));
    }
    waiter.join();
    EXPECT_EQ(dest, "done");
}

// One thread sleeps on the transport to read its reply; another thread, which sends, receives that reply. It must wake the
// first, because no further event will.
TEST(Stream, ReplyReceivedByAnotherThreadEndsTheWait) {
    struct Deaf final : net::Transport {  // only wake() ends its wait()
        Result<size_t> send(std::span<const ConstBytes> parts) override { return parts[0].size(); }
        Result<size_t> receive(std::span<const MutableBytes> parts) override {
            size_t taken = 0;
            for (const MutableBytes part : parts) {
                const size_t step = std::min(part.size(), inbox.size() - taken);
                std::copy_n(inbox.begin() + static_cast<ptrdiff_t>(taken), step, part.begin());
                taken += step;
            }
            inbox.erase(inbox.begin(), inbox.begin() + static_cast<ptrdiff_t>(taken));
            return taken;
        }
        Result<bool> wait(net::Interest, TimePoint, microseconds) override {
            waiting.count_down();
            std::unique_lock lock(mutex);
            was_woken = changed.wait_for(lock, seconds(5), [&] { return woken; });
            return was_woken.load();
        }
        void wake() override {
            std::lock_guard lock(mutex);
            woken = true;
            changed.notify_all();
        }
        net::TransportKind kind() const override { return net::TransportKind::tcp; }

        std::vector<std::byte> inbox;  // guarded by the stream's lock
        std::latch waiting{1};
        std::mutex mutex;
        std::condition_variable changed;
        bool woken = false;
        std::atomic<bool> was_woken = false;
    };
    auto owned = std::make_unique<Deaf>();
    Deaf & transport = *owned;
    Stream stream(std::move(owned), long_timeout, microseconds{0});
    uint32_t reply = 0;
    std::jthread waiter([&] {
        Stream::Lock held(stream.mutex());
        EXPECT_TRUE(stream.await(held, stream.expect(mutable_bytes(&reply, sizeof reply))));
    });
    transport.waiting.wait();
    {
        Stream::Lock held(stream.mutex());
        transport.inbox = bytes_of(uint64_t{4}) + bytes_of(uint32_t{77});
        store(stream.append(4).data(), uint32_t{0});
        EXPECT_TRUE(stream.flush(held, stream.position()));
    }
    waiter.join();
    EXPECT_EQ(reply, 77u);
    EXPECT_TRUE(transport.was_woken) << "the reply had arrived, but the thread kept sleeping";
}

TEST_F(StreamTest, CloseEndsTheWaitsOfOtherThreads) {
    std::string first(4, '?'), second(4, '?');
    std::latch waiting(2);
    const auto wait_on = [&](std::string & dest) {
        auto held = lock();
        const auto ticket = expect(dest);
        waiting.count_down();
        const auto waited = stream->await(held, ticket);
        ASSERT_FALSE(waited);
        EXPECT_EQ(waited.error().text, "the reason");
    };
    std::jthread one([&] { wait_on(first); });
    std::jthread two([&] { wait_on(second); });
    waiting.wait();
    {
        auto held = lock();
        stream->close({Errc::io, "the reason"});
    }
    one.join();
    two.join();
    EXPECT_EQ(first + second, std::string(8, '\0'));
}

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
    ASSERT_TRUE(peer.answer_bytes(bytes_of(std::string_view("ok"))));
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
