// Time-outs, stalls, and the check whether the connection is up.
#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "support/stream_line.h"

namespace caravan::client {
namespace {

using stream_line::ImpatientStreamTest;
using stream_line::Line;
using stream_line::StreamTest;
using stream_line::long_timeout;
using test::bytes_of;
using test::noise;
using test::operator+;

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
            peer.reply_bytes(bytes_of(std::string_view("good")));
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
    constexpr milliseconds timeout{500};
    Line line(timeout);
    std::string dest(1600, '?');
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
    EXPECT_GT(Clock::now() - begin, timeout);
    EXPECT_EQ(bytes_of(std::string_view(dest)), noise(dest.size()));
}

}  // namespace
}  // namespace caravan::client
