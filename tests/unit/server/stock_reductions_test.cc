// COMM_INIT, COMM_ALLREDUCE and COMM_FREE in a session. The other rank is the test.
#include "server/session/stock_reductions.h"

#include <gtest/gtest.h>

#include "server/links/sums.h"
#include "support/session_client.h"
#include "support/tcp_pair.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using wire::Command;
using test::floats;
using test::WirePeer;

const std::vector<std::byte> greeting(sizeof(wire::CommGreeting));

struct Server {
    StockPairing::Port port() {
        return {.reserve = [this]() -> Result<> {
                    ++reservations;
                    return is_free ? Result<>() : fail(Errc::unavailable, "another session has it");
                },
                .accept =
                    [this](uint32_t, TimePoint) -> Result<UniqueFd> {
                        test::TcpPair pair;
                        rank_1 = WirePeer(std::move(pair.far));
                        rank_1.send(greeting);
                        return std::move(pair.near);
                    },
                .stop_accepting = [] {},
                .release = [this] { ++releases; }};
    }
    // The session uses this until it has ended.
    bool is_free = true;
    int reservations = 0, releases = 0;
    WirePeer rank_1;
    StockPairing pairing{port(), net::Networks::loopback(), net::addresses_of, seconds(5), milliseconds(100)};
};

struct Client : test::BufferClient {
    explicit Client(Server & server, uint64_t max_memory = MemoryBudget::no_limit)
        : BufferClient(test::cpu_devices(), max_memory, nullptr, nullptr, &server.pairing) {}
    uint8_t join(wire::CommInitRequest request = {.device = 0, .rank = 0, .world = 2, .port = 51052, .host = {}}) {
        peer.request(Command::comm_init, bytes_of(request));
        return peer.receive_reply_as<uint8_t>();
    }
    void reduce(const wire::Tensor & tensor) {
        peer.request(Command::comm_allreduce, bytes_of(wire::CommReduceRequest{0, tensor}));
    }
};

TEST(StockReductions, SendsItsTensorAndAddsTheOtherOne) {
    Server server;
    Client client(server);
    ASSERT_EQ(client.join(), 1);
    EXPECT_EQ(server.rank_1.receive(24), greeting);
    const auto tensor = client.f32(1, 64);
    for (int round = 1; round < 3; ++round) {
        client.set(tensor, floats({1, 2, 3, 4}));
        client.reduce(tensor);
        EXPECT_EQ(test::as_floats(server.rank_1.receive(16)), (std::vector<float>{1, 2, 3, 4})) << "rank 0 sends first";
        server.rank_1.send(floats({10, 20, 30, 40}));
        EXPECT_EQ(client.get_floats(tensor, 4), (std::vector<float>{11, 22, 33, 44}));
    }
    client.peer.request(Command::comm_free, bytes_of(wire::DeviceRequest{0}));
    EXPECT_TRUE(test::hangs_up(server.rank_1));
    ASSERT_EQ(client.join(), 1) << "after COMM_FREE another comm can begin";
    EXPECT_EQ(server.releases, 1);
}

// Two Caravan servers then hold the same bits.
TEST(StockReductions, LargeTensorIsRoundedOnBothSides) {
    constexpr uint32_t count = wire::comm_rounded_elements;
    Server server;
    Client client(server);
    const uint64_t buffer = client.alloc(count * sizeof(float));
    const auto tensor = test::f32_tensor(1, {count, 1, 1, 1}, buffer, client.base);
    const float third = 1.0f / 3;
    client.set(tensor, floats(std::vector<float>(count, third)));
    ASSERT_EQ(client.join(), 1);
    EXPECT_EQ(server.rank_1.receive(24), greeting);
    client.reduce(tensor);
    std::vector<uint16_t> rounded(1);
    to_bfloat16(std::span(&third, 1), rounded);
    std::vector<float> same(1);
    from_bfloat16(rounded, same);
    const auto sent = server.rank_1.receive(count * sizeof(uint16_t));
    EXPECT_EQ(load<uint16_t>(sent.data() + 2 * (count - 1)), rounded[0]);
    server.rank_1.send(sent);
    EXPECT_EQ(client.get_floats(tensor, count), std::vector<float>(count, 2 * same[0]));
}

TEST(StockReductions, EmptyTensorIsNotExchanged) {
    Server server;
    Client client(server);
    ASSERT_EQ(client.join(), 1);
    EXPECT_EQ(server.rank_1.receive(24), greeting);
    client.reduce(client.f32(1, 0, 0));
    client.peer.request(Command::comm_free, bytes_of(wire::DeviceRequest{0}));
    EXPECT_TRUE(test::hangs_up(server.rank_1));
}

TEST(StockReductions, DeclinesAndGoesOn) {
    Server server;
    Client client(server);
    EXPECT_EQ(client.join({.device = 0, .rank = 0, .world = 3, .port = 51052, .host = {}}), 0);
    EXPECT_EQ(client.join({.device = 0, .rank = 2, .world = 2, .port = 51052, .host = {}}), 0);
    EXPECT_EQ(server.reservations, 0);
    EXPECT_EQ(client.join({.device = 0, .rank = 1, .world = 2, .port = 22, .host = "10.1.2.3"}), 0);
    EXPECT_EQ(server.releases, 1) << "another session can have the comm";
    ASSERT_EQ(client.join(), 1);
    EXPECT_EQ(client.join(), 0) << "two contexts would mix up their tensors";
    server.is_free = false;
    EXPECT_NE(client.alloc(64), 0u);
}

TEST(StockReductions, SessionWithoutPairingDeclines) {
    test::BufferClient client;
    client.peer.request(Command::comm_init, std::vector<std::byte>(sizeof(wire::CommInitRequest)));
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0);
}

TEST(StockReductions, TensorWithoutCommEndsTheSession) {
    Server server;
    Client client(server);
    client.reduce(client.f32(1, 64));
    EXPECT_EQ(client.end().text, "COMM_ALLREDUCE: device 0 has no comm");
}

TEST(StockReductions, TensorOfAnotherTypeEndsTheSession) {
    Server server;
    Client client(server);
    ASSERT_EQ(client.join(), 1);
    wire::Tensor tensor = client.f32(1, 64);
    tensor.type = GGML_TYPE_I32;
    client.reduce(tensor);
    EXPECT_EQ(client.end().text, "COMM_ALLREDUCE: the tensor must be a contiguous f32 tensor");
}

TEST(StockReductions, TensorOutsideItsBufferEndsTheSession) {
    Server server;
    Client client(server);
    ASSERT_EQ(client.join(), 1);
    client.reduce(client.f32(1, 4096));
    EXPECT_TRUE(client.end().text.starts_with("COMM_ALLREDUCE: ")) << client.end().text;
}

TEST(StockReductions, LostRankEndsTheSessionWithTheReason) {
    Server server;
    Client client(server);
    ASSERT_EQ(client.join(), 1);
    server.rank_1.close();
    client.reduce(client.f32(1, 64));
    EXPECT_TRUE(client.end().text.starts_with("COMM_ALLREDUCE: the link with rank 1 of the group broke")) << client.end().text;
}

}  // namespace
}  // namespace caravan::server
