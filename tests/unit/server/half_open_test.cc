#include "server/supervisor/half_open.h"

#include <gtest/gtest.h>

#include "support/wire_peer.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

using State = WorkerProcess::State;

// A full server: two sessions of the address "a", both half-open, and a client that waits. No process exists: signals fail.
class HalfOpenTest : public testing::Test {
protected:
    HalfOpenTest() {
        for (WorkerProcess ** worker : {&first, &second}) {
            WorkerProcess & added = pool.all().emplace_back();
            added.pid = 0x7fffffff;
            added.state = State::serving;
            added.address = "a";
            added.began_at = worker == &first ? begin : begin + milliseconds(1);
            *worker = &added;
        }
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        peer = test::WirePeer(std::move(pair.far));
        client = &clients.add(std::move(pair.near), true);
        peer.ask(wire::Command::hello, wire::Extension{.features = wire::feature_confirm});
        EXPECT_TRUE(client->client.advance({}));
        peer.request(wire::command_admission);
        client->wants = client->client.advance({}).value();
        slots.set_held({"a", "a"});
    }
    void send_position() { EXPECT_TRUE(client->client.send_position({1, wire::AdmissionReply::Reason::server_full, 2})); }
    void confirm() {
        send_position();
        peer.request(wire::command_admission);
        EXPECT_TRUE(client->client.read_confirmation());
    }

    const TimePoint begin = Clock::now(), overdue = begin + tunable::half_open_patience;
    WorkerOptions options;
    WorkerPool pool{options, [] { return fail(Errc::unavailable, "none in this test"); }};
    WaitingClients clients{8};
    SessionSlots slots{2, 2};
    HalfOpenSessions half_open{pool, clients, slots};
    WorkerProcess * first = nullptr, * second = nullptr;
    test::WirePeer peer;
    WaitingClient * client = nullptr;
};

TEST_F(HalfOpenTest, EndsTheOldestForAClientThatConfirmed) {
    confirm();
    half_open.update(overdue + milliseconds(1));
    EXPECT_EQ(first->state, State::retired);
    EXPECT_EQ(second->state, State::serving) << "one client needs one place";
    EXPECT_LE(half_open.next_update(), overdue + milliseconds(1));
}

TEST_F(HalfOpenTest, WaitsUntilItIsOverdue) {
    confirm();
    half_open.update(overdue - milliseconds(1));
    EXPECT_EQ(first->state, State::serving);
    EXPECT_EQ(half_open.next_update(), overdue);
}

TEST_F(HalfOpenTest, NoneEndsForASilentClient) {
    half_open.update(overdue + seconds(1));
    send_position();
    half_open.update(overdue + seconds(1));
    EXPECT_EQ(first->state, State::serving);
    EXPECT_EQ(half_open.next_update(), no_deadline);
}

TEST_F(HalfOpenTest, SessionsThatHaveBegunStay) {
    confirm();
    first->has_begun = true;
    half_open.update(overdue + seconds(1));
    EXPECT_EQ(first->state, State::serving);
    EXPECT_EQ(second->state, State::retired);
}

TEST_F(HalfOpenTest, NoAddressGainsByIt) {
    confirm();
    first->address = second->address = "a";
    slots.set_held({"a", client->address});
    second->address = client->address;
    second->has_begun = true;
    half_open.update(overdue + seconds(1));
    EXPECT_EQ(first->state, State::serving) << "both addresses hold one";
}

TEST_F(HalfOpenTest, NoneEndsWhileThereIsRoom) {
    confirm();
    slots.set_held({"a"});
    half_open.update(overdue + seconds(1));
    EXPECT_EQ(first->state, State::serving);
}

TEST_F(HalfOpenTest, KnowsTheAddressesWithOverdueSessions) {
    EXPECT_FALSE(HalfOpenSessions::has_overdue(pool, "a", overdue - milliseconds(1)));
    EXPECT_TRUE(HalfOpenSessions::has_overdue(pool, "a", overdue));
    EXPECT_FALSE(HalfOpenSessions::has_overdue(pool, "b", overdue));
}

}  // namespace
}  // namespace caravan::server
