// The memory limit of a session (--max-memory).
#include "server/session/memory_budget.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::BufferClient;
using test::NativeClient;
using test::SessionClient;
using test::bytes_of;
using test::f32_tensor;
using test::floats;
using test::graph_payload;
using test::two_cpu_devices;
using test::operator+;
using wire::Command;

constexpr uint64_t mib = 1 << 20;

TEST(MemoryLimit, RefusesBuffersBeyondLimit) {
    SessionClient client({}, test::cpu_devices(), 16 * mib);
    const uint64_t first = client.alloc(10 * mib);
    EXPECT_NE(first, 0u);
    EXPECT_EQ(client.alloc(7 * mib), 0u);
    EXPECT_EQ(client.alloc(UINT64_MAX), 0u);
    EXPECT_NE(client.alloc(6 * mib), 0u);
    EXPECT_EQ(client.alloc(1), 0u);
    client.peer.ask(Command::free_buffer, first);
    EXPECT_NE(client.alloc(10 * mib), 0u);
    EXPECT_EQ(client.leave().code, Errc::closed);
}

TEST(MemoryLimit, DeviceReportsLimit) {
    SessionClient client({}, test::cpu_devices(), 16 * mib);
    client.alloc(6 * mib);
    client.peer.ask(Command::get_device_memory, uint32_t{0});
    const auto memory = client.peer.receive_reply_as<wire::DeviceMemoryReply>();
    EXPECT_EQ(memory.free, 10 * mib);
    EXPECT_EQ(memory.total, 16 * mib);
}

TEST(MemoryLimit, IsDividedAmongDevices) {
    auto devices = two_cpu_devices();
    SessionClient client({}, devices, 16 * mib);
    const auto reported = [&](uint32_t device) {
        client.peer.ask(Command::get_device_memory, device);
        return client.peer.receive_reply_as<wire::DeviceMemoryReply>();
    };
    EXPECT_EQ(reported(0).free, 8 * mib);
    EXPECT_EQ(reported(1).total, 8 * mib);
    EXPECT_NE(client.alloc(6 * mib, 1), 0u);
    EXPECT_EQ(reported(0).free + reported(1).free, 10 * mib);
    EXPECT_NE(client.alloc(10 * mib, 0), 0u) << "shares are reported, not enforced";
    EXPECT_EQ(reported(0).free + reported(1).free, 0u);
}

// Tensors that no node uses.
std::vector<wire::Tensor> idle_tensors(uint64_t count) {
    std::vector<wire::Tensor> tensors;
    for (uint64_t id = 1; id <= count; ++id) {
        tensors.push_back(f32_tensor(id, {4, 1, 1, 1}, 0, 0));
    }
    return tensors;
}

TEST(MemoryLimit, EvictsOldGraphs) {
    BufferClient client(8 * mib);
    client.set(client.f32(1, 0), floats({1, 2, 3, 4}));
    auto large = idle_tensors(1000);
    std::ranges::copy(client.sum(), large.begin());
    for (uint64_t uid = 1; uid <= 40; ++uid) {  // about half a MiB each
        client.peer.request(Command::graph_compute, graph_payload(0, uid, {3}, large));
    }
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 40});
    EXPECT_EQ(client.get_floats(client.f32(3, 128), 4), (std::vector<float>{1, 2, 3, 4}));
    client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 1});
    EXPECT_EQ(client.end().code, Errc::not_found);
    EXPECT_NE(client.end().text.find("were evicted"), std::string::npos) << client.end().text;
}

// A stock client can learn of a failed launch only by the end of its session. Stale bytes would pass for a result.
TEST(MemoryLimit, EvictionReportsFailureOfRunningGraph) {
    auto devices = two_cpu_devices();
    SessionClient client({}, devices, 8 * mib);
    devices.abort_computation();
    wire::Tensor result{};
    for (uint32_t device : {1, 0}) {  // the second graph needs the first one's memory
        const uint64_t buffer = client.alloc(4096, device);
        auto tensors = idle_tensors(4000);
        for (uint64_t id = 1; id <= 3; ++id) {
            tensors[id - 1] = f32_tensor(id, {4, 1, 1, 1}, buffer, client.base + 64 * id);
        }
        tensors[2] = test::node_of(tensors[2], GGML_OP_ADD, {1, 2});
        client.peer.request(Command::graph_compute, graph_payload(device, device + 1, {3}, tensors));
        result = device == 1 ? tensors[2] : result;
    }
    client.peer.ask(Command::get_tensor, wire::GetTensorRequest{result, 0, 16});
    EXPECT_FALSE(client.peer.receive_reply());
    EXPECT_NE(client.end().text.find("could not compute"), std::string::npos) << client.end().text;
}

TEST(MemoryLimit, KeepsRecentlyLaunchedGraph) {
    BufferClient client(8 * mib);
    auto large = idle_tensors(1000);
    std::ranges::copy(client.sum(), large.begin());
    for (uint64_t uid = 1; uid <= 40; ++uid) {
        client.peer.request(Command::graph_compute, graph_payload(0, uid, {3}, large));
        client.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 1});
    }
    EXPECT_EQ(client.leave().code, Errc::closed) << client.end().text;
}

TEST(MemoryLimit, OversizedGraphEndsSession) {
    BufferClient client(8 * mib);
    client.peer.request(Command::graph_compute, graph_payload(0, 1, {}, idle_tensors(20000)));
    EXPECT_EQ(client.end().code, Errc::no_memory);
    EXPECT_NE(client.end().text.find("--max-memory"), std::string::npos) << client.end().text;
}

TEST(MemoryLimit, OversizedGraphIsRefusedBeforeItArrives) {
    BufferClient client(8 * mib);
    client.peer.send(bytes_of(wire::RequestHeader{Command::graph_compute, 60 * mib}) +
                     bytes_of(wire::GraphComputeRequest{}));
    EXPECT_EQ(client.end().code, Errc::no_memory) << client.end().text;
}

TEST(MemoryLimit, AppliesToNativeDialect) {
    NativeClient client(16 * mib);
    EXPECT_EQ(client.alloc(16 * mib), 0u);
    for (uint16_t slot = 0; slot < 3; ++slot) {
        client.declare(slot, client.buffer + 64 * slot);
    }
    client.write(0, {1, 2, 3, 4});
    client.write(1, {10, 20, 30, 40});
    auto large = client.sum();
    large.resize(1000);
    for (uint16_t slot = 0; slot < 32; ++slot) {  // about 0.27 MiB of tensors and half a MiB built, each
        client.graph(slot, large);
    }
    client.write(0, {0, 0, 0, 0});
    client.post(wire::NativeCommand::launch, wire::LaunchRequest{0});  // built again
    EXPECT_EQ(client.read(2), (std::vector<float>{10, 20, 30, 40}));
    for (uint16_t slot = 32; slot < 96; ++slot) {
        client.graph(slot, large);
    }
    auto text = client.receive_text();
    EXPECT_EQ(text.first, wire::ReplyKind::launch_failed) << "the tensors fit, the built graph does not";
    while (text.first == wire::ReplyKind::launch_failed) {
        EXPECT_NE(text.second.find("--max-memory"), std::string::npos) << text.second;
        text = client.receive_text();
    }
    EXPECT_EQ(text.first, wire::ReplyKind::ended);
    EXPECT_NE(text.second.find("--max-memory"), std::string::npos) << text.second;
    EXPECT_EQ(client.end().code, Errc::no_memory);
}

}  // namespace
}  // namespace caravan::server
