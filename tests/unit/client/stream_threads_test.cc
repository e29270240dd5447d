// Several threads that use one stream.
#include "client/session/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <latch>
#include <mutex>
#include <string>
#include <thread>

#include "support/stream_line.h"

namespace caravan::client {
namespace {

using stream_line::StreamTest;
using stream_line::long_timeout;
using test::bytes_of;
using test::noise;
using test::operator+;
using test::text_of;

TEST_F(StreamTest, TwoThreadsAwaitDifferentReplies) {
    constexpr int rounds = 300;
    std::jthread server([&] {
        for (int i = 0; i < 2 * rounds; ++i) {
            const auto number = load<uint32_t>(peer.receive(4).data());
            ASSERT_TRUE(peer.reply(number * 3));
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
    ASSERT_TRUE(peer.reply('1'));
    early.join();
    EXPECT_EQ(first, "1");
    ASSERT_TRUE(peer.reply('2'));
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
        EXPECT_TRUE(peer.reply_bytes(bytes_of(std::string_view("done"))));
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

}  // namespace
}  // namespace caravan::client
