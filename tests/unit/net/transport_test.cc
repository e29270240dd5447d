#include "net/transport.h"

#include <gtest/gtest.h>
#ifdef __linux__
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <array>
#include <thread>

#include "support/wire_peer.h"

namespace caravan::net {
namespace {

using test::bytes_of;
using test::noise;
using test::WirePeer;

class SocketTransport : public testing::Test {
protected:
    SocketTransport() {
        auto pair = test::socket_pair();
        set_non_blocking(pair.near.get(), true);
        transport = *make_socket_transport(std::move(pair.near));
        peer = WirePeer(std::move(pair.far));
    }

    Result<size_t> send(const std::vector<std::byte> & bytes) {
        const std::array parts{ConstBytes(bytes)};
        return transport->send(parts);
    }
    Result<size_t> receive(std::vector<std::byte> & bytes) {
        const std::array parts{MutableBytes(bytes)};
        return transport->receive(parts);
    }

    std::unique_ptr<Transport> transport;
    WirePeer peer;
};

TEST_F(SocketTransport, TransfersPartsInOrder) {
    const auto a = bytes_of(std::string_view("one ")), b = bytes_of(std::string_view("two ")),
               c = bytes_of(std::string_view("three"));
    const std::array out{ConstBytes(a), ConstBytes(b), ConstBytes(), ConstBytes(c)};
    ASSERT_EQ(transport->send(out).value(), 13u);
    EXPECT_EQ(test::text_of(peer.receive(13)), "one two three");

    ASSERT_TRUE(peer.send(bytes_of(std::string_view("abcdefgh"))));
    std::vector<std::byte> first(3), second(10);
    const std::array in{MutableBytes(first), MutableBytes(second)};
    ASSERT_EQ(transport->receive(in).value(), 8u);
    EXPECT_EQ(test::text_of(first), "abc");
    EXPECT_EQ(test::text_of(ConstBytes(second).first(5)), "defgh");
}

TEST_F(SocketTransport, SendsAtMostMaxParts) {
    const auto byte = bytes_of(std::string_view("x"));
    const std::vector<ConstBytes> parts(max_parts + 10, ConstBytes(byte));
    const auto sent = transport->send(parts);
    ASSERT_TRUE(sent) << sent.error().text;
    EXPECT_GT(*sent, 0u);
    EXPECT_LE(*sent, max_parts);
    EXPECT_EQ(peer.unread(), *sent);
}

TEST_F(SocketTransport, ReceiveWithoutDataReturnsZero) {
    std::vector<std::byte> buffer(10);
    EXPECT_EQ(receive(buffer).value(), 0u);
}

TEST_F(SocketTransport, AFullSocketReturnsZero) {
    const auto payload = noise(8 << 20);
    size_t total = 0;
    for (;;) {
        const std::array parts{ConstBytes(payload).subspan(total)};
        const auto sent = transport->send(parts);
        ASSERT_TRUE(sent) << sent.error().text;
        if (*sent == 0) {
            break;
        }
        total += *sent;
        ASSERT_LT(total, payload.size());
    }
    EXPECT_FALSE(transport->wait({.write = true}, Clock::now() + milliseconds(5), microseconds{0}).value());
    const auto got = peer.receive(total);
    EXPECT_TRUE(std::ranges::equal(got, ConstBytes(payload).first(total)));
    EXPECT_TRUE(transport->wait({.write = true}, Clock::now() + test::patience, microseconds{0}).value());
    EXPECT_GT(send(payload).value(), 0u);
}

TEST_F(SocketTransport, ReceivesDataSentBeforeTheClose) {
    ASSERT_TRUE(peer.send(bytes_of(std::string_view("bye"))));
    peer.close();
    std::vector<std::byte> buffer(10);
    EXPECT_TRUE(transport->wait({.read = true}, Clock::now() + test::patience, microseconds{0}).value());
    ASSERT_EQ(receive(buffer).value(), 3u);
    const auto end = receive(buffer);
    ASSERT_FALSE(end);
    EXPECT_EQ(end.error().code, Errc::closed);
}

TEST_F(SocketTransport, SendToAClosedPeerIsAnErrorWithoutSignal) {
    peer.close();
    const auto sent = send(bytes_of(std::string_view("anyone?")));
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::reset);
}

TEST_F(SocketTransport, WaitEndsAtItsDeadline) {
    for (const microseconds spin : {microseconds{0}, microseconds{500}, microseconds{100'000}}) {
        const TimePoint start = Clock::now();
        const auto ready = transport->wait({.read = true}, start + milliseconds(20), spin);
        ASSERT_TRUE(ready);
        EXPECT_FALSE(*ready);
        EXPECT_GE(Clock::now(), start + milliseconds(20));
    }
    EXPECT_FALSE(transport->wait({.read = true}, Clock::now() - seconds(1), microseconds{0}).value());
}

TEST_F(SocketTransport, WaitReturnsForAvailableData) {
    ASSERT_TRUE(peer.send(bytes_of(std::string_view("x"))));
    for (const microseconds spin : {microseconds{0}, microseconds{50}}) {
        EXPECT_TRUE(transport->wait({.read = true}, no_deadline, spin).value());
    }
}

TEST_F(SocketTransport, WakeEndsTheWaitOfAnotherThread) {
    for (const microseconds spin : {microseconds{0}, microseconds{1'000'000}}) {
        std::jthread waker([this] { transport->wake(); });
        EXPECT_TRUE(transport->wait({.read = true}, no_deadline, spin).value());
    }
}

TEST_F(SocketTransport, WakeBeforeTheWaitEndsTheNextOneOnly) {
    transport->wake();
    transport->wake();
    EXPECT_TRUE(transport->wait({.read = true}, no_deadline, microseconds{0}).value());
    EXPECT_FALSE(transport->wait({.read = true}, Clock::now(), microseconds{0}).value());
}

TEST_F(SocketTransport, ManyWakesNeverBlock) {
    for (int i = 0; i < 200'000; ++i) {  // more than a pipe holds
        transport->wake();
    }
    EXPECT_TRUE(transport->wait({}, no_deadline, microseconds{0}).value());
}

TEST_F(SocketTransport, BothDirectionsAtOnceFromTwoThreads) {
    const auto there = noise(1 << 20, 1), back = noise(1 << 20, 2);
    std::vector<std::byte> got(there.size());
    std::jthread echo([&] {
        EXPECT_TRUE(peer.send(back));
        EXPECT_TRUE(peer.receive(MutableBytes(got)));
    });
    std::vector<std::byte> arrived(back.size());
    std::jthread reader([&] {
        for (size_t at = 0; at < arrived.size();) {
            const std::array parts{MutableBytes(arrived).subspan(at)};
            const auto step = transport->receive(parts);
            ASSERT_TRUE(step) << step.error().text;
            at += *step;
            if (*step == 0) {
                ASSERT_TRUE(transport->wait({.read = true}, Clock::now() + test::patience, microseconds{10}).value());
            }
        }
    });
    for (size_t at = 0; at < there.size();) {
        const std::array parts{ConstBytes(there).subspan(at)};
        const auto step = transport->send(parts);
        ASSERT_TRUE(step) << step.error().text;
        at += *step;
        if (*step == 0) {
            ASSERT_TRUE(transport->wait({.write = true}, Clock::now() + test::patience, microseconds{0}).value());
        }
    }
    reader.join();
    echo.join();
    EXPECT_EQ(arrived, back);
    EXPECT_EQ(got, there);
}

TEST_F(SocketTransport, ReportsItsKind) {
    EXPECT_EQ(transport->kind(), TransportKind::unix_socket);
    const auto listeners = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners);
    auto client = connect_socket(listeners->front().endpoint, Clock::now() + test::patience);
    ASSERT_TRUE(client);
    EXPECT_EQ((*make_socket_transport(std::move(*client)))->kind(), TransportKind::tcp);
}

// A transport with a short patience, and its peer's socket.
struct Impatient {
    std::unique_ptr<Transport> transport;
    UniqueFd peer;
};
constexpr milliseconds patience{200};

Impatient impatient(milliseconds patience = net::patience) {
    const auto listeners = *listen_on("127.0.0.1", 0);
    auto client = *connect_socket(listeners.front().endpoint, Clock::now() + test::patience);
    UniqueFd peer(::accept(listeners.front().fd.get(), nullptr, nullptr));
    return {*make_socket_transport(std::move(client), patience), std::move(peer)};
}

void fill(Transport & transport) {
    const std::vector<std::byte> bytes(1 << 20);
    const std::array parts{ConstBytes(bytes)};
    while (transport.send(parts).value() > 0 || transport.wait({.write = true}, Clock::now() + milliseconds(100),
                                                               microseconds{0}).value()) {
    }
}

TEST(NetworkSilence, APeerThatDoesNotReadIsNotSilent) {
    const Impatient ends = impatient();
    fill(*ends.transport);
    const auto ready = ends.transport->wait({.read = true}, Clock::now() + 3 * patience, microseconds{0});
    ASSERT_TRUE(ready) << ready.error().text;
    EXPECT_FALSE(*ready);
}

#ifdef __linux__
// Runs `check` in a child process with a network namespace of its own. Returns its exit status: 0 for success,
// `no_network` if namespaces are not permitted here.
constexpr int no_network = 77;

bool loopback(bool up) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = up ? IFF_UP : 0;
    return ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
}

template <class Check>
int in_own_network_namespace(Check check) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        if ((::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) || !loopback(true)) {
            ::_exit(no_network);
        }
        ::_exit(check());
    }
    int status = -1;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(NetworkSilence, TimesOutForCallersThatCanReconnect) {
    const int status = in_own_network_namespace([] {
        Impatient ends = impatient();
        // An idle connection is not silent.
        if (ends.transport->wait({.read = true}, Clock::now() + 2 * patience, microseconds{0}).value() || !loopback(false)) {
            return 1;
        }
        const std::vector<std::byte> bytes = test::noise(10);
        const std::array parts{ConstBytes(bytes)};
        if (ends.transport->send(parts).value() != 10) {
            return 2;
        }
        const TimePoint begin = Clock::now();
        const auto ready = ends.transport->wait({.read = true}, begin + test::patience, microseconds{0});
        if (ready || ready.error().code != Errc::timed_out || !ready.error().text.contains("the network has been silent")) {
            return 3;
        }
        if (Clock::now() - begin < patience) {
            return 4;
        }
        // After the network recovers, the peer must see a reset, not an orderly close.
        loopback(true);
        ends.transport->break_off();
        ends.transport.reset();
        std::byte byte{};
        ssize_t got = 0;
        while ((got = ::recv(ends.peer.get(), &byte, 1, 0)) > 0) {
        }
        return got < 0 && errno == ECONNRESET ? 0 : 5;
    });
    if (status == no_network) {
        GTEST_SKIP() << "network namespaces are not permitted here";
    }
    EXPECT_EQ(status, 0);
}

TEST(NetworkSilence, ToleratesAShortOutage) {
    const int status = in_own_network_namespace([] {
        constexpr milliseconds longer{600};  // the retransmission follows after 200 ms
        const Impatient ends = impatient(longer);
        const std::vector<std::byte> bytes = test::noise(10);
        const std::array parts{ConstBytes(bytes)};
        if (!loopback(false) || ends.transport->send(parts).value() != 10) {
            return 1;
        }
        if (!ends.transport->wait({.read = true}, Clock::now() + longer / 6, microseconds{0}) || !loopback(true)) {
            return 2;
        }
        std::vector<std::byte> got(10);
        if (::recv(ends.peer.get(), got.data(), got.size(), MSG_WAITALL) != 10 || got != bytes) {
            return 3;
        }
        return ends.transport->wait({.read = true}, Clock::now() + longer, microseconds{0}) ? 0 : 4;
    });
    if (status == no_network) {
        GTEST_SKIP() << "network namespaces are not permitted here";
    }
    EXPECT_EQ(status, 0);
}
#endif

}  // namespace
}  // namespace caravan::net
