// A session in the stock dialect, over a local socket.
#include <gtest/gtest.h>

#include <algorithm>

#include "platform/pages.h"
#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::BufferClient;
using test::SessionClient;
using test::bytes_of;
using test::f32_tensor;
using test::floats;
using test::graph_payload;
using test::message;
using test::noise;
using test::wire_tensor;
using test::operator+;
using wire::Command;

TEST(SessionTest, RepliesToDeviceQueries) {
    SessionClient client;
    client.peer.request(Command::device_count);
    EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 1u);
    client.peer.ask(Command::get_alignment, uint32_t{0});
    EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), page_size());
    client.peer.ask(Command::get_max_size, uint32_t{0});
    EXPECT_GT(client.peer.receive_reply_as<uint64_t>(), 0u);
    client.peer.ask(Command::get_device_memory, uint32_t{0});
    const auto memory = client.peer.receive_reply_as<wire::DeviceMemoryReply>();
    EXPECT_GT(+memory.total, 0u);
    EXPECT_LE(+memory.free, +memory.total);
    EXPECT_EQ(client.leave().code, Errc::closed);
    EXPECT_FALSE(client.counters().did_work());
}

TEST(SessionTest, AcceptsBytesReadByTheFrontDoor) {
    const auto command = message(Command::get_alignment, bytes_of(uint32_t{0}));
    for (size_t cut = 0; cut <= command.size(); ++cut) {
        SessionClient client(ConstBytes(command).first(cut));
        client.peer.send(ConstBytes(command).subspan(cut));
        EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), page_size());
    }
}

TEST(SessionTest, AcceptsCommandsByteByByte) {
    SessionClient client;
    for (const std::byte & b : message(Command::alloc_buffer, bytes_of(wire::AllocBufferRequest{0, 64}))) {
        ASSERT_TRUE(client.peer.send({&b, 1}));
    }
    EXPECT_NE(+client.peer.receive_reply_as<wire::AllocBufferReply>().buffer, 0u);
}

TEST(SessionTest, SetTensorThenGetTensor) {
    BufferClient client;
    const auto tensor = client.f32(1, 64, 100);
    const auto data = noise(400);
    client.set(tensor, data);
    EXPECT_EQ(client.get(tensor, 400), data);
    client.set(tensor, noise(40, 2), 80);
    EXPECT_EQ(client.get(tensor, 40, 80), noise(40, 2));
    EXPECT_EQ(client.get(tensor, 80), std::vector(data.begin(), data.begin() + 80));
    EXPECT_TRUE(client.get(tensor, 0).empty());
    client.set(tensor, {});
    EXPECT_EQ(client.leave().code, Errc::closed);
    EXPECT_TRUE(client.counters().did_work());
}

TEST(SessionTest, TransfersLargeTensors) {
    SessionClient client;
    constexpr uint32_t size = 24 << 20;
    const uint64_t buffer = client.alloc(size);
    const auto tensor = f32_tensor(1, {size / 4, 1, 1, 1}, buffer, client.base);
    const auto data = noise(size);
    client.set(tensor, data);
    EXPECT_TRUE(client.get(tensor, size) == data);
}

TEST(SessionTest, ClearAndMemset) {
    BufferClient client;
    const auto tensor = client.f32(1, 0, 1024);
    client.peer.ask(Command::buffer_clear, wire::BufferClearRequest{client.buffer, 7});
    client.peer.ask(Command::memset_tensor, wire::MemsetTensorRequest{tensor, 10, 20, 9});
    client.peer.ask(Command::memset_tensor, wire::MemsetTensorRequest{tensor, 4096, 0, 1});
    std::vector<std::byte> expected(4096, std::byte{7});
    std::fill_n(expected.begin() + 10, 20, std::byte{9});
    EXPECT_EQ(client.get(tensor, 4096), expected);
}

TEST(SessionTest, TransfersRows) {
    BufferClient client;
    const auto tensor = client.f32(1, 0, 1024);
    client.peer.ask(Command::buffer_clear, wire::BufferClearRequest{client.buffer, 0});
    const auto rows = noise(3 * 5);
    client.peer.request(Command::set_tensor_2d, bytes_of(wire::Tensor2dRequest{tensor, 8, 5, 3, 100}) + rows);
    std::vector<std::byte> expected(4096);
    for (size_t row = 0; row < 3; ++row) {
        std::copy_n(rows.begin() + row * 5, 5, expected.begin() + 8 + row * 100);
    }
    EXPECT_EQ(client.get(tensor, 4096), expected);
    client.peer.ask(Command::get_tensor_2d, wire::Tensor2dRequest{tensor, 8, 5, 3, 100});
    EXPECT_EQ(client.peer.receive_reply(), rows);
    client.peer.ask(Command::get_tensor_2d, wire::Tensor2dRequest{tensor, 0, 4096, 1, UINT64_MAX});
    EXPECT_EQ(client.peer.receive_reply(), expected);
}

// Transfers of zero bytes touch no memory, so any address is accepted.
TEST(SessionTest, AcceptsEmptyTransfersAtAnyAddress) {
    BufferClient client;
    const auto tensor = client.f32(1, 0, 1024), far = client.f32(2, 1 << 20, 0), odd = client.f32(3, 64, 3, 0);
    client.set(tensor, noise(4096));
    for (const auto & [offset, size, n_copies, stride] : {std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>{0, 4, 0, 4},
                                                          {0, 0, 3, 4}, {1 << 20, 0, UINT64_MAX, UINT64_MAX}, {0, 0, 0, 0}}) {
        const wire::Tensor2dRequest request{tensor, offset, size, n_copies, stride};
        client.peer.ask(Command::set_tensor_2d, request);
        client.peer.ask(Command::get_tensor_2d, request);
        EXPECT_EQ(client.peer.receive_reply(), std::vector<std::byte>());
    }
    for (const wire::Tensor & empty : {far, odd}) {
        client.set(empty, {}, 7);
        EXPECT_TRUE(client.get(empty, 0, 7).empty());
        client.peer.ask(Command::memset_tensor, wire::MemsetTensorRequest{empty, 1 << 20, 0, 0});
        client.peer.ask(Command::init_tensor, empty);
        client.peer.ask(Command::copy_tensor, wire::CopyTensorRequest{far, empty});
        EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1);
    }
    auto padded = wire_tensor(4, GGML_TYPE_Q8_0, {32, 0, 1, 1}, client.buffer, client.base + 4096);
    client.peer.ask(Command::init_tensor, padded);
    EXPECT_EQ(client.get(tensor, 4096), noise(4096));
    EXPECT_EQ(client.leave().code, Errc::closed) << client.end().text;
}

TEST(SessionTest, CopiesTensors) {
    BufferClient client;
    const auto source = client.f32(1, 0), near = client.f32(2, 512);
    const uint64_t other = client.alloc(1024);
    const auto away = f32_tensor(3, {4, 1, 1, 1}, other, client.base + 16);
    client.set(source, noise(16));
    for (const wire::Tensor & target : {near, away}) {
        client.peer.ask(Command::copy_tensor, wire::CopyTensorRequest{source, target});
        EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1);
        EXPECT_EQ(client.get(target, 16), noise(16));
    }
    client.peer.ask(Command::copy_tensor, wire::CopyTensorRequest{source, source});
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1) << "a copy onto itself";
}

TEST(SessionTest, OverlappingCopyIsRefusedOrCorrect) {
    BufferClient client;
    const auto from = client.f32(1, 0, 256), to = client.f32(2, 64, 256);
    client.set(from, noise(1024));
    client.peer.ask(Command::copy_tensor, wire::CopyTensorRequest{from, to});
    if (client.peer.receive_reply()) {
        EXPECT_EQ(client.get(to, 1024), noise(1024));
    } else {
        EXPECT_NE(client.end().code, Errc::closed);
    }
}

TEST(SessionTest, AllocSize) {
    SessionClient client;
    wire::GetAllocSizeRequest request{};
    request.tensor = f32_tensor(1, {8, 4, 1, 1}, 0, 0);
    client.peer.ask(Command::get_alloc_size, request);
    EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), 128u);
    request.tensor.op = GGML_OP_MUL_MAT;
    request.tensor.src[0] = 2;
    request.tensor.src[1] = 3;
    request.src[0] = f32_tensor(2, {16, 8, 1, 1}, 0, 0);
    request.src[1] = f32_tensor(3, {16, 4, 1, 1}, 0, 0);
    client.peer.ask(Command::get_alloc_size, request);
    EXPECT_GE(client.peer.receive_reply_as<uint64_t>(), 128u);
}

TEST(SessionTest, InitTensor) {
    SessionClient client;
    const uint64_t buffer = client.alloc(4096);
    client.peer.ask(Command::init_tensor, wire_tensor(1, GGML_TYPE_Q8_0, {32, 4, 1, 1}, buffer, client.base));
    client.peer.request(Command::device_count);
    EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 1u);
}

TEST(SessionTest, DeclinesCommInit) {
    SessionClient client;
    client.peer.request(Command::comm_init, std::vector<std::byte>(80));
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0);
    client.peer.request(Command::device_count);
    EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 1u);
}

TEST(SessionTest, HashLookupWithoutCacheMisses) {
    BufferClient client;
    client.peer.ask(Command::set_tensor_hash, wire::SetTensorHashRequest{client.f32(1, 0), 0, 42});
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0);
}

TEST(SessionTest, ComputesAndRecomputes) {
    BufferClient client;
    const auto tensors = client.sum();
    for (uint64_t uid : {0, 5}) {
        client.set(tensors[0], floats({1, 2, 3, 4}));
        client.set(tensors[1], floats({10, 20, 30, 40}));
        client.peer.request(Command::graph_compute, graph_payload(0, uid, {3}, tensors));
        EXPECT_EQ(client.get_floats(tensors[2], 4), (std::vector<float>{11, 22, 33, 44}));
    }
    client.set(tensors[0], floats({0, 0, 0, 1}));
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5});
    EXPECT_EQ(client.get_floats(tensors[2], 4), (std::vector<float>{10, 20, 30, 41}));
    EXPECT_EQ(client.leave().code, Errc::closed);
    EXPECT_EQ(client.counters().launches, 3u);
}

TEST(SessionTest, UidCanBeReusedForAnotherGraph) {
    BufferClient client;
    auto tensors = client.sum();
    client.set(tensors[0], floats({1, 2, 3, 4}));
    client.set(tensors[1], floats({10, 20, 30, 40}));
    client.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, tensors));
    tensors[2].op = GGML_OP_MUL;
    client.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, tensors));
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5});
    EXPECT_EQ(client.get_floats(tensors[2], 4), (std::vector<float>{10, 40, 90, 160}));
}

// A stock server drops all graphs without notice to its client. This server drops only those that use the buffer.
TEST(SessionTest, FreeingUnrelatedBufferKeepsGraph) {
    BufferClient client;
    const auto tensors = client.sum();
    client.set(tensors[0], floats({1, 2, 3, 4}));
    client.set(tensors[1], floats({1, 1, 1, 1}));
    client.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, tensors));
    const uint64_t other = client.alloc(64);
    client.peer.ask(Command::free_buffer, wire::BufferRequest{other});
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5});
    EXPECT_EQ(client.get_floats(tensors[2], 4), (std::vector<float>{2, 3, 4, 5}));
}

TEST(SessionTest, Graph1025DropsAllOthers) {
    BufferClient client;
    const auto tensors = client.sum();
    for (uint64_t uid = 1; uid <= 1024; ++uid) {
        ASSERT_TRUE(client.peer.request(Command::graph_compute, graph_payload(0, uid, {3}, tensors)));
    }
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 1});
    client.peer.request(Command::graph_compute, graph_payload(0, 1025, {3}, tensors));
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 1025});
    client.peer.request(Command::device_count);
    EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 1u);
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 1});
    EXPECT_FALSE(client.peer.receive_reply());
    EXPECT_EQ(client.end().code, Errc::not_found);
}

TEST(SessionTest, RefusedAllocationKeepsSession) {
    SessionClient client;
    for (const uint64_t size : {uint64_t{1} << 47, uint64_t{1} << 48, UINT64_MAX}) {
        EXPECT_EQ(client.alloc(size), 0u);
    }
    EXPECT_NE(client.alloc(64), 0u);
}

}  // namespace
}  // namespace caravan::server
