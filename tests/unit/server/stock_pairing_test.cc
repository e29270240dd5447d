// How the two ranks of a stock client's comm are connected. The other rank is the test.
#include "server/links/stock_pairing.h"

#include <gtest/gtest.h>

#include <future>
#include <list>

#include "support/tcp_pair.h"
#include "wire/stock_comm.h"

namespace caravan::server {
namespace {

using test::TcpPair;
using test::WirePeer;

const std::vector<std::byte> greeting(sizeof(wire::CommGreeting));
const std::atomic<bool> goes_on = false;

// Rank 0, to which the given connections arrive.
struct Accepting {
    explicit Accepting(net::Networks networks = net::Networks::loopback(), milliseconds time = seconds(20))
        : pairing({.reserve = [] { return Result<>(); },
                   .accept =
                       [this](uint32_t port, TimePoint) -> Result<UniqueFd> {
                           EXPECT_EQ(port, 1234u);
                           if (arriving.empty()) {
                               return fail(Errc::unavailable, "no more connections");
                           }
                           UniqueFd next = std::move(arriving.front());
                           arriving.pop_front();
                           return next;
                       },
                   .stop_accepting = [this] { ++stops; },
                   .release = [] {}},
                  std::move(networks), net::addresses_of, time, time) {}
    WirePeer add() {
        TcpPair pair;
        arriving.push_back(std::move(pair.near));
        return WirePeer(std::move(pair.far));
    }
    std::list<UniqueFd> arriving;
    int stops = 0;
    StockPairing pairing;
};

TEST(StockPairing, RankZeroGreetsTheFirstThatGreets) {
    Accepting server;
    WirePeer other = server.add(), gone = server.add(), rank_1 = server.add();
    other.send(std::vector(24, std::byte{'S'}));  // the banner of another protocol
    gone.close();
    rank_1.send(greeting);
    ASSERT_TRUE(server.pairing.accept(1234, goes_on));
    EXPECT_EQ(rank_1.receive(24), greeting);
    EXPECT_TRUE(test::hangs_up(other));
    EXPECT_EQ(server.stops, 1);
}

TEST(StockPairing, RankZeroOffersNoRdma) {
    Accepting server;
    WirePeer rank_1 = server.add();
    wire::CommGreeting queue_pair{.qpn = 17, .psn = 5};
    queue_pair.gid[15] = 1;
    rank_1.send(test::bytes_of(queue_pair));
    ASSERT_TRUE(server.pairing.accept(1234, goes_on));
    EXPECT_EQ(rank_1.receive(24), greeting);
}

TEST(StockPairing, RankZeroTakesConnectionsFromTheNetworksOfLinksOnly) {
    Accepting server(*net::Networks::parse("10.0.0.0/8"));
    WirePeer rank_1 = server.add();
    rank_1.send(greeting);
    const auto accepted = server.pairing.accept(1234, goes_on);
    ASSERT_FALSE(accepted);
    EXPECT_TRUE(test::hangs_up(rank_1));
    EXPECT_EQ(server.stops, 1);
}

TEST(StockPairing, SilentConnectionIsDroppedAfterASecond) {
    Accepting server;
    WirePeer silent = server.add(), rank_1 = server.add();
    rank_1.send(greeting);
    const TimePoint begin = Clock::now();
    ASSERT_TRUE(server.pairing.accept(1234, goes_on));
    EXPECT_GE(Clock::now() - begin, tunable::comm_greeting_timeout);
    EXPECT_TRUE(test::hangs_up(silent));
}

struct Connecting {
    explicit Connecting(milliseconds time) : pairing({}, net::Networks::loopback(), net::addresses_of, time, time) {
        auto opened = net::listen_on("127.0.0.1", 0);
        EXPECT_TRUE(opened);
        listeners = std::move(*opened);
        port = listeners.front().endpoint.port;
    }
    WirePeer accepted() {
        for (const TimePoint end = Clock::now() + test::patience; Clock::now() < end;) {
            if (auto socket = net::accept_socket(listeners.front().fd.get()); socket && *socket) {
                return WirePeer(std::move(*socket));
            }
        }
        return WirePeer(UniqueFd());
    }
    std::vector<net::Listener> listeners;
    uint16_t port = 0;
    StockPairing pairing;
};

TEST(StockPairing, RankOneTriesAgainUntilRankZeroAnswers) {
    Connecting client(seconds(20));
    auto connected = std::async(std::launch::async, [&] { return client.pairing.connect("127.0.0.1", client.port, goes_on); });
    WirePeer first = client.accepted();
    EXPECT_EQ(first.receive(24), greeting);
    first.close();
    WirePeer second = client.accepted();
    EXPECT_EQ(second.receive(24), greeting);
    second.send(greeting);
    EXPECT_TRUE(connected.get());
}

TEST(StockPairing, FailuresOfRankOneTakeTheSameTime) {
    constexpr milliseconds limit(300);
    Connecting client(limit);
    client.listeners.clear();
    for (const auto & [host, port] : {std::pair{"127.0.0.1", uint32_t{client.port}}, {"10.1.2.3", 22u}, {"127.0.0.1", 70'000u},
                                      {"", 22u}, {"no such name.", 22u}}) {
        const TimePoint begin = Clock::now();
        EXPECT_FALSE(client.pairing.connect(host, port, goes_on));
        EXPECT_GE(Clock::now() - begin, limit) << host << ':' << port;
    }
}

TEST(StockPairing, ServiceOfAnotherProtocolIsNoRank) {
    Connecting client(milliseconds(500));
    auto connected = std::async(std::launch::async, [&] { return client.pairing.connect("127.0.0.1", client.port, goes_on); });
    WirePeer service = client.accepted();
    service.send(std::vector(64, std::byte{'S'}));
    EXPECT_FALSE(connected.get());
}

// A stock rank 0 waits for the connection without limit.
TEST(StockPairing, TurnedDownRankZeroIsNotLeftWaiting) {
    Connecting client(seconds(20));
    client.pairing.turn_down("127.0.0.1", client.port);
    WirePeer turned_down = client.accepted();
    EXPECT_TRUE(test::hangs_up(turned_down));
}

}  // namespace
}  // namespace caravan::server
