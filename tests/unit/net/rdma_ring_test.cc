// The data path over several queue pairs, on a real device. The peer is another transport, or bare queue pairs that send any
// message. Skipped without an RDMA device; tests/rdma/test_hostile.py runs it in a lab machine, on Soft-RoCE.
#ifdef GGML_RPC_RDMA
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "net/rdma/proof.h"
#include "net/rdma/ring_header.h"
#include "net/rdma/ring_transport.h"

namespace caravan::net::rdma {
namespace {

using Pairs = std::vector<std::unique_ptr<QueuePair>>;

constexpr Geometry geometry{.slot_size = 4096, .depth = 12, .send_slot_size = 4096};
constexpr uint32_t window = geometry.depth - tunable::ring_reserved_slots;
constexpr size_t room = geometry.slot_size - sizeof(RailHeader);

class RdmaRing : public testing::Test {
protected:
    void SetUp() override {
        const auto ports = scan_ports();
        const auto port = std::ranges::find_if(ports, [](const PortFacts & facts) {
            return facts.is_active && !facts.gids.empty();
        });
        if (port == ports.end()) {
            GTEST_SKIP() << "no RDMA device";
        }
        choice = {.device = port->device, .port = port->port, .is_infiniband = port->is_infiniband, .lid = port->lid,
                  .mtu = port->mtu, .gid = port->gids.back()};
    }

    // Connects `count` queue pairs to as many others.
    void connect(size_t count) {
        for (size_t i = 0; i < count; ++i) {
            auto a = QueuePair::create(choice, geometry), b = QueuePair::create(choice, geometry);
            ASSERT_TRUE(a && b);
            ASSERT_TRUE((*a)->connect((*b)->facts(), 0));
            ASSERT_TRUE((*b)->connect((*a)->facts(), 0));
            own.push_back(std::move(*a));
            others.push_back(std::move(*b));
        }
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        socket.reset(ends[0]);
        other_socket.reset(ends[1]);
    }
    static std::unique_ptr<Transport> transport_over(Pairs & pairs, UniqueFd & socket) {
        auto made = make_ring_transport(std::move(pairs), std::move(socket));
        EXPECT_TRUE(made);
        return std::move(*made);
    }

    Choice choice;
    Pairs own, others;
    UniqueFd socket, other_socket;
};

std::vector<std::byte> noise(size_t size) {
    std::mt19937 random(1);
    std::vector<std::byte> out(size);
    std::ranges::generate(out, [&] { return static_cast<std::byte>(random()); });
    return out;
}

// Sends `data` and receives `size` bytes meanwhile.
std::vector<std::byte> exchange(Transport & transport, ConstBytes data, size_t size) {
    const TimePoint deadline = Clock::now() + seconds(30);
    std::vector<std::byte> out(size);
    for (size_t done = 0; done < size || !data.empty();) {
        const auto sent = transport.send(std::array{data.first(std::min<size_t>(data.size(), 100'000))});
        const auto got = transport.receive(std::array{MutableBytes(out).subspan(done)});
        if (!sent || !got) {
            ADD_FAILURE() << (sent ? got : sent).error().text;
            return {};
        }
        data = data.subspan(*sent);
        done += *got;
        const Interest interest{.read = done < size, .write = !data.empty()};
        if (*sent == 0 && *got == 0 && !transport.wait(interest, deadline, microseconds(0)).value_or(false)) {
            ADD_FAILURE() << "after " << done << " bytes";
            return {};
        }
    }
    return out;
}

TEST_F(RdmaRing, CarriesLongDataInBothDirectionsInOrder) {
    for (const size_t count : {1u, 2u, 3u, 4u}) {
        connect(count);
        const auto a = transport_over(own, socket), b = transport_over(others, other_socket);
        const auto data = noise(8 << 20), back = noise((3 << 20) + 17);
        std::vector<std::byte> arrived;
        std::jthread other([&] { arrived = exchange(*b, back, data.size()); });
        EXPECT_TRUE(exchange(*a, data, back.size()) == back) << count;
        other.join();
        EXPECT_TRUE(arrived == data) << count;
        own.clear();
        others.clear();
    }
}

// A peer of bare queue pairs.
class RdmaRingPeer : public RdmaRing {
protected:
    void open(size_t count) {
        connect(count);
        if (!HasFatalFailure() && !IsSkipped()) {
            transport = transport_over(own, socket);
        }
    }
    void send(size_t pair, RailHeader header, std::string_view data) {
        QueuePair & from = *others[pair];
        const MutableBytes slot = from.send_slot(sent++ % geometry.depth);
        store(slot.data(), header);
        std::ranges::copy(const_bytes(data.data(), data.size()), slot.data() + sizeof header);
        ibv_sge sge{reinterpret_cast<uint64_t>(slot.data()), static_cast<uint32_t>(sizeof header + data.size()), from.lkey()};
        ibv_send_wr request{}, * bad = nullptr;
        request.wr_id = set_up_send_id;
        request.sg_list = &sge;
        request.num_sge = 1;
        request.opcode = IBV_WR_SEND;
        request.send_flags = IBV_SEND_SIGNALED;
        ASSERT_EQ(ibv_post_send(from.qp(), &request, &bad), 0);
        // Its completion means that the message is in the peer's slot.
        ibv_wc completion{};
        for (const TimePoint deadline = Clock::now() + seconds(10); ibv_poll_cq(from.send_cq(), 1, &completion) <= 0;) {
            ASSERT_LT(Clock::now(), deadline);
            std::this_thread::yield();
        }
        ASSERT_EQ(completion.status, IBV_WC_SUCCESS);
    }
    // The data that has arrived, or the error.
    std::string received() {
        std::array<std::byte, 1000> out;
        const auto got = transport->receive(std::array{MutableBytes(out)});
        return got ? std::string(reinterpret_cast<const char *>(out.data()), *got) : got.error().text;
    }
    // The messages that arrive over this pair within a moment: their header, and the size of their data.
    std::vector<std::pair<RailHeader, size_t>> messages(size_t pair, size_t count) {
        std::vector<std::pair<RailHeader, size_t>> out;
        for (const TimePoint deadline = Clock::now() + seconds(count > 0 ? 10 : 0); Clock::now() <= deadline;) {
            ibv_wc completion{};
            if (ibv_poll_cq(others[pair]->receive_cq(), 1, &completion) > 0) {
                const ConstBytes bytes = others[pair]->receive_slot(static_cast<uint32_t>(completion.wr_id));
                out.emplace_back(load<RailHeader>(bytes.data()), completion.byte_len - sizeof(RailHeader));
            }
            if (out.size() >= std::max<size_t>(count, 1)) {
                break;
            }
            std::this_thread::yield();
        }
        return out;
    }

    std::unique_ptr<Transport> transport;
    uint32_t sent = 0;
};

TEST_F(RdmaRingPeer, SmallDataUsesTheFirstPairAndLongDataAll) {
    open(2);
    const std::vector<std::byte> data(3 * room);
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(transport->send(std::array{ConstBytes(data).first(i == 0 ? room : 10)}).value(), i == 0 ? room : 10);
    }
    ASSERT_EQ(messages(0, 3).size(), 3u);
    EXPECT_TRUE(messages(1, 0).empty());
    ASSERT_EQ(transport->send(std::array{ConstBytes(data)}).value(), data.size());
    const auto second = messages(1, 1);
    ASSERT_FALSE(second.empty());
    EXPECT_EQ(second.front().second, room);
    EXPECT_EQ(second.front().first.sequence, 0) << "counted for each pair";
    EXPECT_GE(second.front().first.number, 3u) << "counted for the connection";
}

TEST_F(RdmaRingPeer, KeepsMessagesThatOvertakeOthers) {
    open(2);
    send(1, {.sequence = 0, .number = 1}, "second ");
    EXPECT_EQ(received(), "");
    EXPECT_FALSE(transport->wait({.read = true}, Clock::now() + milliseconds(20), microseconds(0)).value());
    send(1, {.sequence = 1, .number = 2}, "third ");
    send(0, {.sequence = 0, .number = 0}, "first ");
    EXPECT_TRUE(transport->wait({.read = true}, Clock::now() + seconds(5), microseconds(0)).value());
    EXPECT_EQ(received(), "first second third ");
}

TEST_F(RdmaRingPeer, AcceptsTheWindowsOfAllOtherPairsBeforeTheFirstMessage) {
    open(3);
    std::string expected = "0";
    for (uint32_t i = 0; i < 2 * window; ++i) {
        send(1 + i % 2, {.sequence = static_cast<uint16_t>(i / 2), .number = i + 1}, std::to_string(i + 1));
        EXPECT_EQ(received(), "");
        expected += std::to_string(i + 1);
    }
    send(0, {.sequence = 0, .number = 0}, "0");
    EXPECT_EQ(received(), expected);
    const auto returned = messages(1, 2);  // each when a third of the window is owed
    ASSERT_GE(returned.size(), 1u);
    EXPECT_EQ(returned.front().first.credits, window / tunable::ring_credit_share);
    EXPECT_EQ(returned.front().second, 0u);
}

TEST_F(RdmaRingPeer, ReturnsCreditsOverThePairThatTheyAreFor) {
    open(2);
    for (uint16_t i = 0; i < window / tunable::ring_credit_share; ++i) {
        send(1, {.sequence = i, .number = i}, "x");
        EXPECT_EQ(received(), "x");
    }
    ASSERT_EQ(messages(1, 1).size(), 1u);
    EXPECT_TRUE(messages(0, 0).empty());
}

constexpr const char * malformed = "the peer sent a malformed RDMA message";

struct Attack {
    const char * name;
    size_t pair;
    RailHeader header;
    std::string_view data;
};
class RdmaRingAttack : public RdmaRingPeer, public testing::WithParamInterface<Attack> {};

TEST_P(RdmaRingAttack, EndsTheConnection) {
    open(2);
    send(0, {.sequence = 0, .number = 0}, "good");
    EXPECT_EQ(received(), "good");
    send(1, {.sequence = 0, .number = 2}, "early");
    EXPECT_EQ(received(), "");
    send(GetParam().pair, GetParam().header, GetParam().data);
    EXPECT_EQ(received(), malformed);
}

INSTANTIATE_TEST_SUITE_P(
    , RdmaRingAttack,
    testing::Values(Attack{"OldNumber", 0, {.sequence = 1, .number = 0}, "x"},
                    Attack{"NumberOfAKeptMessage", 0, {.sequence = 1, .number = 2}, "x"},
                    Attack{"NumberOfAKeptMessageOverTheSamePair", 1, {.sequence = 1, .number = 2}, "x"},
                    Attack{"NumberBeyondAllWindows", 0, {.sequence = 1, .number = 1 + 2 * window}, "x"},
                    Attack{"NumberFarAhead", 1, {.sequence = 1, .number = UINT32_MAX}, "x"},
                    Attack{"SequenceRepeated", 0, {.sequence = 0, .number = 1}, "x"},
                    Attack{"SequenceWithAGap", 0, {.sequence = 2, .number = 1}, "x"},
                    Attack{"SequenceOfTheOtherPair", 1, {.sequence = 0, .number = 1}, "x"},
                    Attack{"NeitherDataNorCredits", 0, {.sequence = 1, .number = 1}, ""},
                    Attack{"TooManyCredits", 1, {.credits = 1, .sequence = 1, .number = 0}, ""},
                    Attack{"MostCredits", 0, {.credits = UINT16_MAX, .sequence = 1, .number = 1}, "x"}),
    [](const auto & info) { return info.param.name; });

TEST_F(RdmaRingPeer, MoreMessagesThanCreditsEndTheConnection) {
    open(2);
    std::string last;
    for (uint16_t i = 0; i <= window + 1 && last.empty(); ++i) {
        send(1, {.sequence = i, .number = i + 1u}, "x");
        last = received();
    }
    EXPECT_EQ(last, "the peer sent more RDMA messages than it had credits for");
}

TEST_F(RdmaRingPeer, AFailureOfAnyPairEndsTheConnection) {
    open(2);
    others[1].reset();
    const std::vector<std::byte> data(2 * room);
    ASSERT_EQ(transport->send(std::array{ConstBytes(data)}).value(), data.size());
    ASSERT_TRUE(transport->wait({.read = true}, Clock::now() + seconds(20), microseconds(0)).value());
    EXPECT_TRUE(received().starts_with("the RDMA connection failed: ")) << received();
}

// The proof of several pairs.

TEST_F(RdmaRing, AQueuePairWithoutItsPeerIsNotProven) {
    connect(3);
    others[1].reset();
    std::vector<Result<>> server;
    const TimePoint began = Clock::now();
    std::atomic<bool> is_verdict_here = false;
    std::jthread other([&] {
        server = prove(others, Prover::server, began + seconds(10), [&] { return is_verdict_here.load(); });
    });
    const auto client = prove(own, Prover::client, began + seconds(10));
    is_verdict_here = true;
    other.join();
    EXPECT_LT(Clock::now() - began, seconds(4)) << "the others do not wait for its retransmissions";
    EXPECT_TRUE(client[0] && client[2]);
    EXPECT_FALSE(client[1]);
    EXPECT_TRUE(server[0] && server[2]);
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
