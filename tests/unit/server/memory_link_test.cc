#include "server/links/memory_link.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <thread>

#include "net/socket.h"
#include "server/links/memory_sharing.h"
#include "support/byte_strings.h"
#include "support/wire_peer.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

using net::Transport;
using test::noise;

std::unique_ptr<Transport> transport_of(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

// Counts what is sent over a link.
class Counting final : public Transport {
public:
    explicit Counting(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        auto sent = inner_->send(parts);
        bytes += sent.value_or(0);
        return sent;
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override { return inner_->receive(parts); }
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override {
        ++waits;
        return inner_->wait(interest, deadline, spin);
    }
    void wake() override { inner_->wake(); }
    void break_off() override { inner_->break_off(); }
    net::TransportKind kind() const override { return inner_->kind(); }

    std::atomic<size_t> bytes = 0, waits = 0;

private:
    std::unique_ptr<Transport> inner_;
};

// Both ends of a link through memory, in this process. The memory is mapped twice.
struct Ends {
    Ends() {
        auto pair = test::socket_pair();
        network[0] = std::make_unique<Counting>(transport_of(std::move(pair.near)));
        network[1] = std::make_unique<Counting>(transport_of(std::move(pair.far)));
        const auto memory = *platform::make_shared_memory(wire::shared_memory_size);
        for (size_t i = 0; i < 2; ++i) {
            shared[i] = std::make_unique<SharedLink>(
                *platform::SharedMapping::map(memory.get(), wire::shared_memory_size), i == 0, *network[i]);
        }
    }
    MemoryLink & link(size_t end) { return shared[end]->link; }
    uint64_t & value(size_t at) { return *reinterpret_cast<uint64_t *>(shared[0]->mapping.bytes().data() + at); }

    std::array<std::unique_ptr<Counting>, 2> network;
    std::array<std::unique_ptr<SharedLink>, 2> shared;
};

TimePoint soon() { return Clock::now() + seconds(10); }

Result<size_t> send(Transport & link, ConstBytes bytes) {
    const std::array parts{bytes};
    return link.send(parts);
}

Result<size_t> receive(Transport & link, MutableBytes bytes) {
    const std::array parts{bytes};
    return link.receive(parts);
}

TEST(MemoryLink, SendsUntilTheRingIsFull) {
    Ends ends;
    const auto data = noise(wire::ring_size + 10);
    EXPECT_EQ(send(ends.link(0), data), wire::ring_size);
    EXPECT_EQ(send(ends.link(0), data), 0u);
    EXPECT_EQ(ends.link(0).wait({.write = true}, Clock::now() + milliseconds(5), microseconds(0)), false);
    std::vector<std::byte> got(100);
    EXPECT_EQ(receive(ends.link(1), got), 100u);
    EXPECT_TRUE(std::ranges::equal(got, ConstBytes(data).first(100)));
    EXPECT_EQ(ends.link(0).wait({.write = true}, soon(), microseconds(0)), true);
    EXPECT_EQ(send(ends.link(0), data), 100u);
    EXPECT_EQ(receive(ends.link(0), got), 0u) << "nothing was sent to it";
}

// Both directions at once, in pieces of any size, with and without sleeping. Each end sends at most one byte over the network
// for each sleep of the other.
TEST(MemoryLink, IsAByteStreamInBothDirections) {
    for (const microseconds spin : {microseconds(0), microseconds(300)}) {
        Ends ends;
        constexpr size_t size = 5 << 20;
        const std::array data{noise(size), noise(size + 1)};
        std::array<std::vector<std::byte>, 2> got{std::vector<std::byte>(size + 1), std::vector<std::byte>(size)};
        const auto run = [&](size_t end) {
            std::mt19937 random(static_cast<unsigned>(end));
            const ConstBytes out = data[end];
            const MutableBytes in = got[end];
            MemoryLink & link = ends.link(end);
            for (size_t sent = 0, received = 0; sent < out.size() || received < in.size();) {
                const size_t piece = 1 + random() % 100'000;
                const size_t half = std::min(piece / 2, out.size() - sent);
                const std::array parts{out.subspan(sent, half),
                                       out.subspan(sent + half, std::min(piece - half, out.size() - sent - half))};
                const auto more_sent = link.send(parts);
                ASSERT_TRUE(more_sent);
                const auto more = receive(link, in.subspan(received, std::min(piece, in.size() - received)));
                ASSERT_TRUE(more);
                sent += *more_sent;
                received += *more;
                if (*more_sent + *more == 0) {
                    ASSERT_EQ(link.wait({.read = received < in.size(), .write = sent < out.size()}, soon(), spin), true);
                }
            }
        };
        std::thread other(run, 1);
        run(0);
        other.join();
        EXPECT_TRUE(got[0] == data[1] && got[1] == data[0]);
        for (size_t end = 0; end < 2; ++end) {
            EXPECT_LE(ends.network[end]->bytes, ends.network[1 - end]->waits);
        }
    }
}

TEST(MemoryLink, SendsNothingOverTheNetworkWhileThePeerIsAwake) {
    Ends ends;
    std::vector<std::byte> bytes(1000);
    for (int i = 0; i < 5000; ++i) {
        ASSERT_EQ(send(ends.link(i % 2), bytes), bytes.size());
        ASSERT_EQ(receive(ends.link(1 - i % 2), bytes), bytes.size());
    }
    EXPECT_EQ(ends.network[0]->bytes + ends.network[1]->bytes, 0u);
}

TEST(MemoryLink, WakesAPeerThatSleeps) {
    Ends ends;
    std::thread other([&] {
        while (std::atomic_ref(ends.value(wire::at_sleeps(1))).load() == 0) {
            std::this_thread::yield();
        }
        EXPECT_EQ(send(ends.link(0), noise(1)), 1u);
    });
    EXPECT_EQ(ends.link(1).wait({.read = true}, soon(), microseconds(0)), true);
    other.join();
    std::vector<std::byte> got(2);
    EXPECT_EQ(receive(ends.link(1), got), 1u);
    EXPECT_EQ(ends.network[0]->bytes, 1u);
}

TEST(MemoryLink, TheEndOfThePeerIsNoticedAfterItsData) {
    Ends ends;
    EXPECT_EQ(send(ends.link(0), noise(5)), 5u);
    ends.network[0].reset();
    EXPECT_EQ(ends.link(1).wait({.read = true}, soon(), microseconds(0)), true);
    std::vector<std::byte> got(10);
    EXPECT_EQ(receive(ends.link(1), got), 5u);
    const auto ended = ends.link(1).wait({.read = true}, soon(), microseconds(100));
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, Errc::closed);
    EXPECT_FALSE(receive(ends.link(1), got)) << "it stays broken";
    EXPECT_FALSE(send(ends.link(1), got));
}

TEST(MemoryLink, WakeEndsAWait) {
    Ends ends;
    ends.link(0).wake();
    EXPECT_EQ(ends.link(0).wait({.read = true}, soon(), microseconds(0)), true);
}

// Each impossible position ends the link. None is used.
TEST(MemoryLink, ImpossiblePositionsOfThePeerAreErrors) {
    for (const uint64_t written : {uint64_t{wire::ring_size + 1}, UINT64_MAX, uint64_t{1} << 63}) {
        Ends ends;
        ends.value(wire::at_written(0)) = written;
        std::vector<std::byte> got(10);
        const auto received = receive(ends.link(1), got);
        ASSERT_FALSE(received);
        EXPECT_EQ(received.error().code, Errc::protocol);
        EXPECT_FALSE(ends.link(1).wait({.read = true}, soon(), microseconds(0)));
    }
    for (const uint64_t read : {uint64_t{4}, UINT64_MAX}) {
        Ends ends;
        EXPECT_EQ(send(ends.link(0), noise(3)), 3u);
        ends.value(wire::at_read(0)) = read;
        EXPECT_EQ(send(ends.link(0), noise(3)).error().code, Errc::protocol);
    }
    Ends ends;  // positions never decrease
    std::vector<std::byte> got(4);
    EXPECT_EQ(send(ends.link(0), noise(4)), 4u);
    EXPECT_EQ(receive(ends.link(1), got), 4u);
    EXPECT_EQ(send(ends.link(0), noise(4)), 4u);
    ends.value(wire::at_written(0)) = 4;
    ends.value(wire::at_read(0)) = 0;
    EXPECT_EQ(receive(ends.link(1), got), 0u);
    EXPECT_EQ(send(ends.link(0), noise(4)).error().code, Errc::protocol);
}

}  // namespace
}  // namespace caravan::server
