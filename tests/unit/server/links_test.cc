// Links between the sessions of two servers.
#include "server/links/links.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <future>
#include <set>

#include "net/server_handshake.h"
#include "net/socket.h"
#include "net/transport.h"
#include "support/scripted_server.h"
#include "support/wire_peer.h"
#include "wire/native.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::noise;
using test::WirePeer;
using test::operator+;

std::unique_ptr<net::Transport> transport_of(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

struct Receiving {
    Receiving() {
        auto pair = test::socket_pair();
        peer = WirePeer(std::move(pair.far));
        receiver.emplace(transport_of(std::move(pair.near)));
    }
    void push(uint64_t number, std::vector<std::byte> data) {
        peer.send(bytes_of(wire::PushHeader{number, data.size()}) + data);
    }
    std::vector<std::byte> take(size_t size) {
        std::vector<std::byte> out(size);
        EXPECT_TRUE(receiver->bytes().read_into(out));
        return out;
    }
    WirePeer peer;
    std::optional<LinkReceiver> receiver;
};

TEST(LinkReceiver, ReceivesMessagesInOrder) {
    Receiving link;
    link.push(0, noise(10));
    link.push(1, {});
    link.push(2, noise(100'000, 2));
    ASSERT_TRUE(link.receiver->begin(10));
    EXPECT_EQ(link.take(10), noise(10));
    ASSERT_TRUE(link.receiver->begin(0));
    ASSERT_TRUE(link.receiver->begin(100'000));
    EXPECT_EQ(link.take(100'000), noise(100'000, 2));
}

TEST(LinkReceiver, RefusesUnexpectedNumberOrSize) {
    for (const auto & [number, size] : {std::pair(1, 10), {-1, 10}, {0, 9}, {0, 11}}) {
        Receiving link;
        link.push(static_cast<uint64_t>(number), noise(static_cast<size_t>(size)));
        const auto begun = link.receiver->begin(10);
        ASSERT_FALSE(begun) << number << " " << size;
        EXPECT_EQ(begun.error().code, Errc::protocol);
    }
}

TEST(LinkReceiver, AbsentMessageFailsAndNextSucceeds) {
    Receiving link;
    link.peer.send(bytes_of(wire::PushHeader{0, wire::push_absent}));
    link.push(1, noise(10));
    EXPECT_EQ(link.receiver->begin(10).error().code, Errc::unavailable);
    ASSERT_TRUE(link.receiver->begin(10));
    EXPECT_EQ(link.take(10), noise(10));
}

TEST(LinkReceiver, ErrorNamesBrokenLink) {
    Receiving link;
    link.peer.send(bytes_of(uint32_t{0}));  // part of a header
    link.peer.end_sending();
    const auto begun = link.receiver->begin(10);
    ASSERT_FALSE(begun);
    EXPECT_EQ(begun.error().code, Errc::unavailable);
    EXPECT_NE(begun.error().text.find("link from another server"), std::string::npos) << begun.error().text;
}

struct Sending {
    Sending() {
        auto pair = test::socket_pair();
        far = std::move(pair.far);
        sender.emplace(transport_of(std::move(pair.near)), backlog);
    }
    Result<> send(ConstBytes data) {
        return sender->begin(data.size()).and_then([&] { return sender->send(data); });
    }
    std::atomic<size_t> backlog = 0;
    std::optional<LinkSender> sender;
    UniqueFd far;  // destroyed before the sender, which would wait for it
};

TEST(LinkSender, QueuesBytesInOrder) {
    Sending link;
    const auto first = noise(3'000'000), second = noise(5, 2);
    ASSERT_TRUE(link.send(first));  // the peer does not read
    ASSERT_TRUE(link.send(second));
    EXPECT_GT(link.backlog, 0u);
    LinkReceiver receiver(transport_of(std::move(link.far)));
    for (const auto & data : {first, second}) {
        ASSERT_TRUE(receiver.begin(data.size()));
        std::vector<std::byte> out(data.size());
        ASSERT_TRUE(receiver.bytes().read_into(out));
        EXPECT_EQ(out, data);
    }
    const auto deadline = Clock::now() + test::patience;
    while (link.backlog > 0 && Clock::now() < deadline) {
        std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_EQ(link.backlog, 0u);
}

TEST(LinkSender, FailsAfterDisconnect) {
    Sending link;
    link.far.reset();
    Result<> sent;
    const auto deadline = Clock::now() + test::patience;
    while (sent && Clock::now() < deadline) {
        sent = link.send(noise(1000));
    }
    ASSERT_FALSE(sent);
    EXPECT_NE(sent.error().text.find("link to another server"), std::string::npos) << sent.error().text;
    EXPECT_TRUE(link.sender->first_failure());
    EXPECT_FALSE(link.sender->first_failure());
}

// The freed bytes are available to other links of the session.
TEST(LinkSender, BrokenLinkDropsQueue) {
    Sending link;
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(link.send(noise(1'000'000)));  // the peer does not read
    }
    EXPECT_GT(link.backlog, 1'000'000u);
    link.far.reset();
    Result<> sent;
    const auto deadline = Clock::now() + test::patience;
    while ((sent || link.backlog > 0) && Clock::now() < deadline) {
        sent = link.send(noise(10));
        std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_FALSE(sent);
    EXPECT_EQ(link.backlog, 0u);
}

TEST(Links, TokensAreLimited) {
    Links links([](uint64_t) { return true; }, seconds(0));
    std::set<uint64_t> tokens;
    for (size_t i = 0; i < Links::max_links; ++i) {
        tokens.insert(links.invite());
    }
    EXPECT_EQ(tokens.size(), Links::max_links);
    EXPECT_FALSE(tokens.contains(0));
    EXPECT_EQ(links.invite(), 0u);
}

TEST(Links, NoTokenWithoutRegistration) {
    bool passes_on = false;
    Links links([&](uint64_t) { return passes_on; }, seconds(0));
    for (size_t i = 0; i < Links::max_links; ++i) {
        EXPECT_EQ(links.invite(), 0u);
    }
    passes_on = true;
    EXPECT_NE(links.invite(), 0u) << "unregistered tokens do not count";
}

TEST(Links, TokenOpensOneLink) {
    Links links([](uint64_t) { return true; }, seconds(0));
    const uint64_t token = links.invite();
    EXPECT_FALSE(links.claim(token + 1));
    EXPECT_TRUE(links.claim(token));
    EXPECT_FALSE(links.claim(token)) << "another connection opens it";
    links.unclaim(token);
    EXPECT_TRUE(links.claim(token));
    links.drop_receiver(token);
    EXPECT_FALSE(links.claim(token));
}

TEST(Links, UnknownTokenReturnsNullAtOnce) {
    Links links([](uint64_t) { return true; }, seconds(0));
    EXPECT_EQ(links.receiver(links.invite() + 1), nullptr);
}

TEST(Links, LinksAreLimited) {
    test::ScriptedServer server(
        [](WirePeer & peer, wire::Command first) {
            if (first == wire::command_link) {
                peer.send(net::link_reply);
            }
        },
        [](size_t) { return wire::Extension{.features = wire::feature_native}; });
    Links links([](uint64_t) { return true; }, seconds(0));
    const auto connect = [&](size_t link) {
        return links.connect(static_cast<uint16_t>(link), 1, server.endpoint().text());
    };
    for (size_t link = 0; link < Links::max_links; ++link) {
        EXPECT_EQ(connect(link), net::TransportKind::tcp) << link;
        EXPECT_NE(links.sender(static_cast<uint16_t>(link)), nullptr);
        if (link < 3) {
            EXPECT_EQ(connect(link).error().code, Errc::invalid_argument) << "the link exists";
        }
    }
    EXPECT_EQ(connect(Links::max_links).error().code, Errc::invalid_argument) << "too many";
    EXPECT_EQ(server.count(wire::command_link), static_cast<int>(Links::max_links));
}

TEST(Links, ConnectsWithinAllowedNetworksOnly) {
    test::ScriptedServer server(
        [](WirePeer & peer, wire::Command first) {
            if (first == wire::command_link) {
                peer.send(net::link_reply);
            }
        },
        [](size_t) { return wire::Extension{.features = wire::feature_native}; });
    Links links([](uint64_t) { return true; }, seconds(0), *net::Networks::parse("10.0.0.0/8"), net::addresses_of,
                milliseconds(100));
    EXPECT_EQ(links.connect(0, 1, server.endpoint().text()).error().code, Errc::unavailable);
    EXPECT_EQ(server.count(wire::Command::hello), 0);
}

TEST(Links, ConnectFailuresAreIndistinguishable) {
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));  // completes no handshake
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener.get(), 8), 0);
    socklen_t size = sizeof address;
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr *>(&address), &size), 0);
    constexpr milliseconds connect_time{100};
    Links links([](uint64_t) { return true; }, seconds(0), net::Networks::loopback(), net::addresses_of, connect_time);
    std::string first;
    for (const std::string & endpoint : {formatted("127.0.0.1:{}", ntohs(address.sin_port)), std::string("127.0.0.1:1"),
                                         std::string("192.0.2.1:50052"), std::string("no.such.host.invalid:50052")}) {
        const TimePoint begin = Clock::now();
        const auto connected = links.connect(0, 1, endpoint);
        EXPECT_GE(Clock::now() - begin, connect_time) << endpoint;
        ASSERT_FALSE(connected);
        std::string text = connected.error().text;
        const size_t at = text.find(endpoint);
        ASSERT_NE(at, std::string::npos);
        text.replace(at, endpoint.size(), "X");
        first = first.empty() ? text : first;
        EXPECT_EQ(text, first);
        EXPECT_EQ(connected.error().code, Errc::unavailable);
    }
}

TEST(Links, ConnectsOverTcpOnly) {
    Links links([](uint64_t) { return true; }, seconds(0));
    EXPECT_EQ(links.connect(0, 1, "unix:/run/rpc.sock").error().code, Errc::unsupported);
    EXPECT_EQ(links.connect(0, 1, "no endpoint").error().code, Errc::invalid_argument);
    EXPECT_EQ(links.sender(0), nullptr);
}

// A name server that never replies.
TEST(Links, UnresolvedNameFailsWithinDeadline) {
    std::promise<void> released;
    const auto silent = [until = released.get_future().share()](const net::Endpoint &) {
        until.wait_for(test::patience);
        return Result<std::vector<net::Endpoint>>();
    };
    Links links([](uint64_t) { return true; }, seconds(1), net::Networks::loopback(), silent, milliseconds(200));
    const TimePoint begin = Clock::now();
    const auto connected = links.connect(0, 1, "other.example:50052");
    ASSERT_FALSE(connected);
    EXPECT_EQ(connected.error().text, "cannot open a link to other.example:50052; see the server's log for the reason");
    EXPECT_LT(Clock::now() - begin, seconds(10));
    released.set_value();
}

}  // namespace
}  // namespace caravan::server
