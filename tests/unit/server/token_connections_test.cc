#include "server/worker/token_connections.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "net/socket.h"
#include "support/wire_peer.h"

namespace caravan::server {
namespace {

using test::bytes_of;

std::unique_ptr<net::Transport> transport_of(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

// Passes a connection with an incomplete handshake to accept() and returns its far end.
UniqueFd begin_resuming(TokenConnections & connections, uint64_t token) {
    auto pair = test::socket_pair();
    net::set_non_blocking(pair.near.get(), true);
    connections.accept(token, std::move(pair.near),
                  bytes_of(wire::RequestHeader{wire::command_resume, sizeof(wire::ResumeRequest)}), true);
    return std::move(pair.far);
}

bool is_closed(const UniqueFd & far) {
    char byte = 0;
    return ::recv(far.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

TEST(TokenConnections, CloseAbortsHandshakes) {
    Links links([](uint64_t) { return true; }, seconds(0));
    ResumptionTable streams;
    TokenConnections connections(links, streams);
    auto session = test::socket_pair();
    auto transport = std::make_unique<net::ResumableTransport>(
        transport_of(std::move(session.near)),
        net::ResumableTransport::Options{.name = "a client", .grace = seconds(0), .reconnect = {}});
    streams.add(7, *transport);
    const UniqueFd slow = begin_resuming(connections, 7);
    EXPECT_FALSE(is_closed(slow));
    const TimePoint begin = Clock::now();
    connections.close();
    EXPECT_LT(Clock::now() - begin, seconds(8)) << "it waited for the handshake's deadline of 10 s";
    EXPECT_TRUE(is_closed(slow)) << "a thread still holds the connection";
    transport.reset();
    EXPECT_TRUE(is_closed(begin_resuming(connections, 7))) << "connections are dropped after close()";
}

TEST(TokenConnections, ConcurrentHandshakesAreBounded) {
    Links links([](uint64_t) { return true; }, seconds(0));
    ResumptionTable streams;
    TokenConnections connections(links, streams);
    std::vector<UniqueFd> slow;
    for (size_t i = 0; i < TokenConnections::max_handshakes; ++i) {
        slow.push_back(begin_resuming(connections, 7));
    }
    EXPECT_TRUE(is_closed(begin_resuming(connections, 7)));
    EXPECT_FALSE(is_closed(slow.back()));
    slow.clear();  // these handshakes fail
    const auto deadline = Clock::now() + test::patience;
    bool is_in = false;
    while (!is_in && Clock::now() < deadline) {
        is_in = !is_closed(begin_resuming(connections, 7));
    }
    EXPECT_TRUE(is_in);
}

}  // namespace
}  // namespace caravan::server
