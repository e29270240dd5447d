#include "server/supervisor/contention.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "support/wire_peer.h"

namespace caravan::server {
namespace {

constexpr seconds idle_limit{600};

// Two workers that serve, both of the address "a", and a client that waits since `begin`.
class ContentionTest : public testing::Test {
protected:
    ContentionTest() {
        for (UniqueFd & far : workers) {
            int ends[2];
            EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
            far.reset(ends[1]);
            WorkerProcess worker;
            worker.control.reset(ends[0]);
            worker.state = WorkerProcess::State::serving;
            worker.address = "a";
            pool.all().push_back(std::move(worker));
        }
        slots.set_held({"a", "a"});
        auto pair = test::socket_pair();
        peer = std::move(pair.far);
        client = &clients.add(std::move(pair.near), true);
        client->wants = FrontDoor::Wants::session;
        begin = client->last_received;
    }
    // The limit that the worker has received since the last call; -1: none.
    int limit_of(size_t worker) {
        const auto received = receive_control(workers[worker].get(), Descriptors::refuse);
        return received && *received ? static_cast<int>((*received)->message.number) : -1;
    }

    WorkerOptions options;
    WorkerPool pool{options, [] { return fail(Errc::unavailable, "none in this test"); }};
    WaitingClients clients{8};
    SessionSlots slots{2, 2};
    Contention contention{idle_limit, pool, clients, slots};
    UniqueFd workers[2], peer;
    WaitingClient * client = nullptr;
    TimePoint begin;
};

TEST_F(ContentionTest, NoSessionEndsForClientThatJustArrived) {
    contention.update(begin + milliseconds(999));
    EXPECT_EQ(limit_of(0), -1);
    EXPECT_EQ(limit_of(1), -1);
    EXPECT_EQ(contention.next_update(), begin + seconds(1));
}

TEST_F(ContentionTest, OneSessionIsAskedAtATimeInTurn) {
    contention.update(begin + seconds(1));
    EXPECT_EQ(limit_of(0), idle_limit.count());
    EXPECT_EQ(limit_of(1), -1);
    contention.update(begin + milliseconds(1400));
    EXPECT_EQ(limit_of(1), -1) << "the first one may still end";
    contention.update(begin + milliseconds(1500));
    EXPECT_EQ(limit_of(0), 0) << "withdrawn";
    EXPECT_EQ(limit_of(1), idle_limit.count());
}

TEST_F(ContentionTest, LimitIsWithdrawnWhenTheClientLeaves) {
    contention.update(begin + seconds(1));
    ASSERT_EQ(limit_of(0), idle_limit.count());
    clients.drop(*client);
    contention.update(begin + seconds(1));
    EXPECT_EQ(limit_of(0), 0);
    EXPECT_EQ(contention.next_update(), no_deadline);
}

TEST_F(ContentionTest, OnlyAddressesWithMoreSessionsLoseOne) {
    for (WorkerProcess & worker : pool.all()) {
        worker.address = client->address;
    }
    slots.set_held({client->address, client->address});
    contention.update(begin + seconds(2));
    EXPECT_EQ(limit_of(0), -1);
    EXPECT_EQ(limit_of(1), -1);
}

}  // namespace
}  // namespace caravan::server
