#include "client/session/relays.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <latch>
#include <thread>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using test::noise;
using test::text_of;
using test::WirePeer;

// The stream of a target, and a session with the source.
struct RelaysTest : testing::Test {
    RelaysTest() {
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        target_peer = WirePeer(std::move(pair.far));
        target.emplace(*net::make_socket_transport(std::move(pair.near)), test::patience, microseconds{0});
        relays.emplace(*target);
    }

    void append(std::string_view text) { std::memcpy(target->append(text.size()).data(), text.data(), text.size()); }
    // Appends a message with a hole for 8 bytes of the source. Returns the position of its header.
    uint64_t add_relay() {
        std::vector<std::byte> bytes(8);
        const auto ticket = source.get(source.kit.f32(2), bytes);
        const uint64_t begin = target->position();
        append("head:");
        relays->add(*source.connection, ticket, begin, std::move(bytes));
        return begin;
    }
    std::string sent() {
        EXPECT_TRUE(target->flush(held, target->position()));
        return text_of(target_peer.receive(target_peer.unread()));
    }

    Session source;
    WirePeer target_peer;
    std::optional<Stream> target;
    std::optional<Relays> relays;
    Stream::Lock held;
};

TEST_F(RelaysTest, MessageIsSentOnceTheSourceHasReplied) {
    held = Stream::Lock(target->mutex());
    append("before ");
    const uint64_t begin = add_relay();
    append(" after");
    EXPECT_FALSE(relays->empty());
    relays->fill_before(held, begin);  // would wait for ever otherwise
    EXPECT_FALSE(relays->empty());
    ASSERT_TRUE(target->flush(held, begin));
    EXPECT_EQ(text_of(target_peer.receive(7)), "before ");
    EXPECT_EQ(target_peer.unread(), 0u);
    source.peer.reply_bytes(test::bytes_of(std::string_view("12345678")));
    relays->fill_before(held, begin + 1);
    EXPECT_TRUE(relays->empty());
    EXPECT_EQ(sent(), "head:12345678 after");
    EXPECT_FALSE(target->has_launch_failure());
}

TEST_F(RelaysTest, FillsThoseBeforeThePositionInOrder) {
    held = Stream::Lock(target->mutex());
    add_relay();
    const uint64_t second = add_relay();
    source.peer.reply_bytes(test::bytes_of(std::string_view("first---")));
    relays->fill_before(held, second);
    EXPECT_FALSE(relays->empty());
    source.peer.reply_bytes(test::bytes_of(std::string_view("second--")));
    relays->fill_before(held, UINT64_MAX);
    EXPECT_TRUE(relays->empty());
    EXPECT_EQ(sent(), "head:first---head:second--");
}

TEST_F(RelaysTest, LostSourceFailsTheLaunchesBehindIt) {
    held = Stream::Lock(target->mutex());
    add_relay();
    source.peer.close();
    relays->fill_before(held, UINT64_MAX);
    EXPECT_TRUE(relays->empty()) << "the target's connection is usable";
    const auto failure = target->take_launch_failure();
    ASSERT_TRUE(failure);
    EXPECT_EQ(*failure, "its input from " + source.endpoint + " did not arrive");
}

TEST_F(RelaysTest, TwoThreadsFillARelayOnce) {
    held = Stream::Lock(target->mutex());
    add_relay();
    held.unlock();
    std::latch ready(2);
    const auto fill = [&] {
        Stream::Lock lock(target->mutex());
        ready.count_down();
        relays->fill_before(lock, UINT64_MAX);
        EXPECT_TRUE(relays->empty());
    };
    std::jthread one(fill), two(fill);
    ready.wait();
    source.peer.reply_bytes(test::bytes_of(std::string_view("12345678")));
    one.join();
    two.join();
    held.lock();
    EXPECT_EQ(sent(), "head:12345678");
}

TEST_F(RelaysTest, KeepsTheSourceAliveAndAwaitsIt) {
    held = Stream::Lock(target->mutex());
    add_relay();
    const std::weak_ptr<Connection> connection = *source.connection;
    source.connection = fail(Errc::io, "released by the program");
    EXPECT_FALSE(connection.expired());
    held.unlock();
    std::atomic<bool> has_replied = false;
    std::jthread server([&] {
        has_replied = true;
        source.peer.reply_bytes(test::bytes_of(std::string_view("12345678")));
    });
    relays->await_sources();
    EXPECT_TRUE(has_replied);
    relays.reset();
    EXPECT_TRUE(connection.expired());
}

}  // namespace
}  // namespace caravan::client
