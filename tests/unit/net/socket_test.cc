#include "net/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <filesystem>
#include <fstream>

#include "support/wire_peer.h"

namespace caravan::net {
namespace {

using test::WirePeer;

TimePoint in_10_s() { return Clock::now() + seconds(10); }

// Removed by the destructor.
class TemporaryFolder {
public:
    TemporaryFolder() {
        char name[] = "/tmp/caravan-socket-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    std::string operator/(const char * name) const { return path_ / name; }

private:
    std::filesystem::path path_;
};

// Connects and transfers bytes in both directions.
void exchange(const Listener & listener) {
    auto client = connect_socket(listener.endpoint, in_10_s());
    ASSERT_TRUE(client) << client.error().text;
    auto server = accept_socket(listener.fd.get());
    ASSERT_TRUE(server) << server.error().text;
    ASSERT_TRUE(*server);
    for (const UniqueFd * fd : {&*client, &*server}) {
        EXPECT_TRUE(::fcntl(fd->get(), F_GETFL) & O_NONBLOCK);
        EXPECT_TRUE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC);
    }
    const std::string name = peer_name(server->get());
    if (listener.endpoint.kind == Endpoint::Kind::unix_socket) {
        EXPECT_EQ(name, "local");
    } else {
        const auto peer = parse_endpoint(name);
        ASSERT_TRUE(peer) << name;
        EXPECT_EQ(peer->host, listener.endpoint.host);
    }
    WirePeer left(std::move(*client)), right(std::move(*server));
    const auto there = test::bytes_of(std::string_view("there")), back = test::bytes_of(std::string_view("and back"));
    EXPECT_TRUE(left.send(there));
    EXPECT_EQ(right.receive(there.size()), there);
    EXPECT_TRUE(right.send(back));
    EXPECT_EQ(left.receive(back.size()), back);
    left.close();
    EXPECT_TRUE(right.at_end());
}

bool has_ipv6() {
    const auto tried = listen_on("::1", 0);
    return tried.has_value();
}

TEST(Socket, PortZeroBindsAFreePort) {
    const auto listeners = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    ASSERT_EQ(listeners->size(), 1u);
    EXPECT_EQ(listeners->front().endpoint.host, "127.0.0.1");
    EXPECT_NE(listeners->front().endpoint.port, 0);
    EXPECT_FALSE(listeners->front().beyond_loopback);
    exchange(listeners->front());
}

TEST(Socket, Ipv6) {
    if (!has_ipv6()) {
        GTEST_SKIP() << "no IPv6 here";
    }
    const auto listeners = listen_on("::1", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    ASSERT_EQ(listeners->size(), 1u);
    EXPECT_EQ(listeners->front().endpoint.host, "::1");
    EXPECT_FALSE(listeners->front().beyond_loopback);
    exchange(listeners->front());
}

TEST(Socket, AllAddressesOfANameShareOnePort) {
    const auto listeners = listen_on("localhost", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    for (const Listener & listener : *listeners) {
        EXPECT_EQ(listener.endpoint.port, listeners->front().endpoint.port);
        exchange(listener);
    }
    EXPECT_TRUE(connect_socket({.host = "localhost", .port = listeners->front().endpoint.port}, in_10_s()));
}

TEST(Socket, TheWildcardAddressIsBeyondLoopback) {
    const auto listeners = listen_on("0.0.0.0", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    EXPECT_TRUE(listeners->front().beyond_loopback);
    EXPECT_TRUE(connect_socket({.host = "127.0.0.1", .port = listeners->front().endpoint.port}, in_10_s()));
}

TEST(Socket, AcceptWithoutAClientIsNotAnError) {
    const auto listeners = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners);
    const auto accepted = accept_socket(listeners->front().fd.get());
    ASSERT_TRUE(accepted) << accepted.error().text;
    EXPECT_FALSE(*accepted);
}

TEST(Socket, APortInUseIsAnErrorWithThePort) {
    const auto first = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(first);
    const uint16_t port = first->front().endpoint.port;
    const auto second = listen_on("127.0.0.1", port);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::unavailable);
    EXPECT_TRUE(second.error().text.contains(std::to_string(port))) << second.error().text;
}

TEST(Socket, APortCanBeReusedAfterItsListenerCloses) {
    auto first = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(first);
    const Endpoint endpoint = first->front().endpoint;
    exchange(first->front());  // leaves a connection in TIME_WAIT
    first->clear();
    const auto second = listen_on("127.0.0.1", endpoint.port);
    ASSERT_TRUE(second) << second.error().text;
    exchange(second->front());
}

TEST(Socket, RefusedConnectionNamesTheEndpoint) {
    Endpoint endpoint;
    {
        const auto listeners = listen_on("127.0.0.1", 0);
        ASSERT_TRUE(listeners);
        endpoint = listeners->front().endpoint;
    }
    const auto refused = connect_socket(endpoint, in_10_s());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::unavailable);
    EXPECT_TRUE(refused.error().text.contains(endpoint.text())) << refused.error().text;
}

TEST(Socket, UnknownHostsAreErrors) {
    const auto refused = connect_socket({.host = "no such host", .port = 5}, in_10_s());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::not_found);
    EXPECT_FALSE(listen_on("no such host", 0));
    EXPECT_FALSE(listen_on("192.0.2.1", 0));  // an address of the documentation range
}

TEST(UnixSocket, TransfersBytes) {
    const TemporaryFolder folder;
    const auto listeners = listen_on("unix:" + folder / "s", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    EXPECT_FALSE(listeners->front().beyond_loopback);
    exchange(listeners->front());
}

TEST(UnixSocket, AStaleFileIsReplaced) {
    const TemporaryFolder folder;
    const std::string path = folder / "s";
    ASSERT_TRUE(listen_on("unix:" + path, 0));  // closed at once; its file stays
    ASSERT_TRUE(std::filesystem::exists(path));
    const auto listeners = listen_on("unix:" + path, 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    exchange(listeners->front());
}

TEST(UnixSocket, ALiveListenerIsLeftAlone) {
    const TemporaryFolder folder;
    const std::string path = folder / "s";
    const auto first = listen_on("unix:" + path, 0);
    ASSERT_TRUE(first);
    const auto second = listen_on("unix:" + path, 0);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::unavailable);
    // The connection that detected the live listener is still in its queue.
    const auto probe = accept_socket(first->front().fd.get());
    EXPECT_TRUE(probe);
    exchange(first->front());
}

TEST(UnixSocket, AFileThatIsNotASocketIsLeftAlone) {
    const TemporaryFolder folder;
    const std::string path = folder / "s";
    std::ofstream(path) << "precious";
    EXPECT_FALSE(listen_on("unix:" + path, 0));
    std::string content;
    std::ifstream(path) >> content;
    EXPECT_EQ(content, "precious");
}

TEST(UnixSocket, ATooLongPathIsAnErrorForBothEnds) {
    const std::string path = "/tmp/" + std::string(sizeof(sockaddr_un::sun_path), 'x');
    const auto listened = listen_on("unix:" + path, 0);
    ASSERT_FALSE(listened);
    EXPECT_EQ(listened.error().code, Errc::invalid_argument);
    const auto connected = connect_socket({.kind = Endpoint::Kind::unix_socket, .path = path}, in_10_s());
    ASSERT_FALSE(connected);
    EXPECT_EQ(connected.error().code, Errc::invalid_argument);
}

TEST(UnixSocket, TheLongestPathWorks) {
    const TemporaryFolder folder;
    std::string path = folder / "s";
    path += std::string(sizeof(sockaddr_un::sun_path) - 1 - path.size(), 'x');
    const auto listeners = listen_on("unix:" + path, 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    exchange(listeners->front());
}

TEST(UnixSocket, AMissingFileIsUnavailable) {
    const TemporaryFolder folder;
    const auto refused = connect_socket({.kind = Endpoint::Kind::unix_socket, .path = folder / "s"}, in_10_s());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::unavailable);
}

// connect() to a listener with a full queue returns EAGAIN, not EINPROGRESS: every returned socket must be connected.
TEST(UnixSocket, AFullQueueIsNotAConnection) {
    const TemporaryFolder folder;
    const std::string path = folder / "s";
    const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener.get(), 0), 0);
    std::vector<UniqueFd> waiting;
    for (int i = 0; i < 4; ++i) {
        auto connected = connect_socket({.kind = Endpoint::Kind::unix_socket, .path = path}, Clock::now() + milliseconds(50));
        if (!connected) {
            EXPECT_TRUE(connected.error().code == Errc::timed_out || connected.error().code == Errc::unavailable);
            return;
        }
        sockaddr_storage peer{};
        socklen_t length = sizeof peer;
        ASSERT_EQ(::getpeername(connected->get(), reinterpret_cast<sockaddr *>(&peer), &length), 0)
            << "socket " << i << " is not connected";
        waiting.push_back(std::move(*connected));
    }
    FAIL() << "the queue is not full";
}

}  // namespace
}  // namespace caravan::net
