// Two ends of a TCP connection over loopback.
#pragma once

#include <gtest/gtest.h>

#include <cerrno>

#include "net/socket.h"
#include "support/wire_peer.h"

namespace caravan::test {

struct TcpPair {
    TcpPair() {
        auto listeners = net::listen_on("127.0.0.1", 0);
        EXPECT_TRUE(listeners);
        auto client = net::connect_socket(listeners->front().endpoint, Clock::now() + patience);
        EXPECT_TRUE(client);
        far = std::move(*client);
        near = *net::accept_socket(listeners->front().fd.get());
        EXPECT_TRUE(near);
    }
    UniqueFd near, far;  // non-blocking
};

// Whether the other end has closed the connection, or closes it now, and sends nothing before.
inline bool hangs_up(WirePeer & peer) {
    std::byte byte{};
    const ssize_t got = ::recv(peer.fd(), &byte, 1, 0);
    return got == 0 || (got < 0 && errno == ECONNRESET);
}

}  // namespace caravan::test
