#include "server/supervisor/waiting_clients.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>

#include "net/socket.h"
#include "support/wire_peer.h"

namespace caravan::server {
namespace {

using Wants = FrontDoor::Wants;

// Real connections over loopback, where every 127.0.0.x is an address of its own.
class Clients {
public:
    explicit Clients(size_t capacity) : waiting(capacity) {
        auto listeners = net::listen_on("127.0.0.1", 0);
        EXPECT_TRUE(listeners);
        listener_ = std::move(listeners->front());
    }

    WaitingClient & come(uint8_t host, Wants wants = Wants::more) {
        UniqueFd peer(::socket(AF_INET, SOCK_STREAM, 0));
        sockaddr_in own{};
        own.sin_family = AF_INET;
        own.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host);
        EXPECT_EQ(::bind(peer.get(), reinterpret_cast<sockaddr *>(&own), sizeof own), 0);
        sockaddr_in there = own;
        there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        there.sin_port = htons(listener_.endpoint.port);
        EXPECT_EQ(::connect(peer.get(), reinterpret_cast<sockaddr *>(&there), sizeof there), 0);
        peers_.push_back(std::move(peer));
        auto socket = net::accept_socket(listener_.fd.get());
        EXPECT_TRUE(socket && *socket);
        WaitingClient & client = waiting.add(std::move(*socket), false);
        client.wants = wants;
        return client;
    }

    std::vector<std::string> left() {
        waiting.bound();
        waiting.remove_closing();
        std::vector<std::string> out;
        for (const WaitingClient & client : waiting.all()) {
            out.push_back(client.address);
        }
        return out;
    }

    // Begins the session of a client that confirms positions, or of an older one.
    WaitingClient & queue(bool confirms) {
        WaitingClient & client = come(1, Wants::session);
        test::WirePeer peer(UniqueFd(::dup(peers_.back().get())));
        peer.ask(wire::Command::hello, wire::Extension{.features = confirms ? wire::feature_confirm : 0});
        EXPECT_EQ(client.client.advance({}).value(), Wants::more);
        peer.request(wire::command_admission);
        EXPECT_EQ(client.client.advance({}).value(), Wants::session);
        return client;
    }
    void send_position(WaitingClient & client) {
        EXPECT_TRUE(client.client.send_position({1, wire::AdmissionReply::Reason::server_full, 1}));
        client.sent_position_at = Clock::now();
    }

    WaitingClients waiting;

private:
    net::Listener listener_;
    std::vector<UniqueFd> peers_;
};

TEST(WaitingClients, TheAddressThatHasMostLosesOne) {
    Clients clients(4);
    for (const uint8_t host : {2, 1, 1, 1, 3}) {
        clients.come(host);
    }
    EXPECT_EQ(clients.left(), (std::vector<std::string>{"127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.3"}));
    EXPECT_EQ(clients.waiting.take_dropped(), 1u);
    EXPECT_EQ(clients.waiting.take_dropped(), 0u);
}

TEST(WaitingClients, WhoHasBeenSilentForLongGoesBeforeWhoHasJustCome) {
    Clients clients(2);
    WaitingClient & speaker = clients.come(1);
    WaitingClient & silent = clients.come(1);
    silent.last_received = Clock::now() - seconds(5);
    speaker.last_received = Clock::now() - seconds(1);
    clients.come(1);
    EXPECT_EQ(clients.left().size(), 2u);
    EXPECT_EQ(&clients.waiting.all().front(), &speaker);
}

TEST(WaitingClients, TheQueueLeavesRoomForQuestions) {
    Clients clients(8);
    clients.come(2, Wants::session);
    for (int i = 0; i < 7; ++i) {
        clients.come(1, Wants::session);
    }
    EXPECT_EQ(clients.left().size(), 6u);
    clients.come(1);
    clients.come(1);
    const auto left = clients.left();
    EXPECT_EQ(left.size(), 8u);
    EXPECT_EQ(left.front(), "127.0.0.2");
}

TEST(WaitingClients, SilentClientsLeaveTheQueueFirst) {
    Clients clients(4);  // three in the queue
    WaitingClient & silent = clients.queue(true);
    clients.send_position(silent);
    silent.sent_position_at -= seconds(1);
    WaitingClient & older = clients.queue(false);
    WaitingClient & alive = clients.queue(true);
    const auto holds = [&](const WaitingClient & client) {
        return std::ranges::any_of(clients.waiting.all(), [&](const WaitingClient & other) { return &other == &client; });
    };
    clients.queue(true);
    EXPECT_EQ(clients.left().size(), 3u);
    EXPECT_FALSE(holds(silent));
    clients.queue(true);
    EXPECT_EQ(clients.left().size(), 3u);
    EXPECT_FALSE(holds(older)) << "it may be silent";
    EXPECT_TRUE(holds(alive));
}

TEST(WaitingClients, PreferredClientsPrecedeOthersOfTheirAddress) {
    Clients clients(8);
    WaitingClient & first = clients.come(1, Wants::session);
    WaitingClient & second = clients.come(1, Wants::session);
    WaitingClient & other = clients.come(2, Wants::session);
    SessionSlots slots(4, 3);
    slots.set_held({"127.0.0.1"});
    const auto preferred = [&](const WaitingClient & client) { return &client == &second; };
    EXPECT_EQ(clients.waiting.queue(slots), (std::vector{&other, &first, &second}));
    EXPECT_EQ(clients.waiting.queue(slots, preferred), (std::vector{&other, &second, &first}));
}

}  // namespace
}  // namespace caravan::server
