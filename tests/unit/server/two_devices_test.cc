// A session with two devices that compute concurrently.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::BufferClient;
using test::NativeClient;
using test::graph_payload;
using test::two_cpu_devices;
using wire::Command;

// A buffer on each of two devices. Slot 2 * device holds a vector, slot 2 * device + 1 the result of power().
struct TwoDevices {
    static constexpr uint64_t side = 512, matrix = 4 * side * side, vector = 4 * side;
    static constexpr int steps = 400;

    TwoDevices() {
        std::vector<float> shift(side * side);  // a matrix that shifts each element by one
        for (uint64_t i = 0; i < side; ++i) {
            shift[(i + 1) % side * side + i] = 1;
        }
        for (uint32_t device = 0; device < 2; ++device) {
            buffers[device] = client.alloc(matrix + 3 * vector, device);
            client.declare(100, buffers[device], side * side);
            client.write(100, shift);
            client.declare(first(device), buffers[device] + matrix, side);
            client.declare(result(device), buffers[device] + matrix + vector, side);
        }
    }
    static uint16_t first(uint32_t device) { return static_cast<uint16_t>(2 * device); }
    static uint16_t result(uint32_t device) { return static_cast<uint16_t>(2 * device + 1); }
    std::vector<float> row(float start) {
        std::vector<float> out(side);
        std::iota(out.begin(), out.end(), start);
        return out;
    }
    std::vector<float> shifted(float start) {
        auto out = row(start);
        std::ranges::rotate(out, out.end() - steps % side);
        return out;
    }
    // The vector multiplied by the matrix `steps` times, which takes some milliseconds.
    std::vector<wire::GraphTensor> power(uint32_t device) {
        const uint64_t base = buffers[device];
        auto square = NativeClient::tensor(base, side);
        square.ne[1] = side;
        square.nb[2] = square.nb[3] = matrix;
        std::vector<wire::GraphTensor> out{square, NativeClient::tensor(base + matrix, side)};
        for (int step = 0; step < steps; ++step) {
            // Alternates between two addresses, so that the last step writes the result.
            auto node = NativeClient::tensor(base + matrix + ((steps - step) % 2 == 1 ? vector : 2 * vector), side);
            node.op = GGML_OP_MUL_MAT;
            node.is_node = 1;
            node.flags = GGML_TENSOR_FLAG_COMPUTE;
            node.src[0] = 1;
            node.src[1] = static_cast<uint32_t>(out.size());
            out.push_back(node);
        }
        return out;
    }
    void compute(uint32_t device) { client.graph(static_cast<uint16_t>(device), power(device), wire::no_base, {}, device); }
    std::vector<wire::Span> spans() {
        const auto answer = std::make_unique<wire::SpansReply>();
        client.peer.request(static_cast<Command>(wire::NativeCommand::spans));
        const auto bytes = client.peer.receive_reply();
        std::memcpy(answer.get(), bytes->data(), sizeof *answer);
        return {answer->spans, answer->spans + answer->count};
    }

    Devices devices = two_cpu_devices();
    NativeClient client{devices};
    uint64_t buffers[2] = {};
};

// On a busy machine one device may wait for a processor until the other is done, so the test repeats until both overlap.
TEST(TwoDevices, ComputeConcurrently) {
    TwoDevices two;
    two.client.peer.request(static_cast<Command>(wire::NativeCommand::clock));
    two.client.peer.receive_reply_as<uint64_t>();
    bool overlapped = false;
    for (int round = 0; round < 50 && !overlapped; ++round) {
        for (uint32_t device = 0; device < 2; ++device) {
            two.client.write(two.first(device), two.row(static_cast<float>(device + round)));
        }
        two.compute(0);
        two.compute(1);
        std::vector<wire::Span> computed;
        std::ranges::copy_if(two.spans(), std::back_inserter(computed),
                             [](const wire::Span & span) { return span.what >= wire::first_computing; });
        ASSERT_EQ(computed.size(), 2u);
        EXPECT_EQ(+computed[0].what, wire::computing(0));
        EXPECT_EQ(+computed[1].what, wire::computing(1));
        overlapped = computed[0].begin < computed[1].end && computed[1].begin < computed[0].end;
        for (uint32_t device = 0; device < 2; ++device) {
            EXPECT_EQ(two.client.read(two.result(device), two.side), two.shifted(static_cast<float>(device + round)));
        }
    }
    EXPECT_TRUE(overlapped);
}

TEST(TwoDevices, AccessWaitsForDevice) {
    TwoDevices two;
    for (int round = 0; round < 3; ++round) {
        const auto start = static_cast<float>(round);
        two.client.write(two.first(0), two.row(start));
        two.compute(0);
        // The result of the first device is the input of the second.
        two.client.post(wire::NativeCommand::copy, wire::CopyRequest{two.result(0), two.first(1)});
        two.compute(1);
        two.client.write(two.first(0), two.row(-1));
        two.client.post(wire::NativeCommand::fill, wire::FillRequest{two.result(0), 0, 4 * two.side, 0});
        auto wanted = two.shifted(start);
        std::ranges::rotate(wanted, wanted.end() - two.steps % two.side);
        EXPECT_EQ(two.client.read(two.result(1), two.side), wanted);
    }
}

TEST(TwoDevices, GraphReadsOtherDevicesMemory) {
    TwoDevices two;
    two.client.write(two.first(1), two.row(5));
    two.compute(1);
    std::vector<wire::GraphTensor> twice{NativeClient::tensor(two.buffers[1] + two.matrix + two.vector, two.side),
                                         NativeClient::tensor(two.buffers[0] + two.matrix + two.vector, two.side)};
    twice[1].op = GGML_OP_ADD;
    twice[1].is_node = 1;
    twice[1].flags = GGML_TENSOR_FLAG_COMPUTE;
    twice[1].src[0] = twice[1].src[1] = 1;
    two.client.graph(7, twice);
    two.client.post(wire::NativeCommand::fill, wire::FillRequest{two.result(1), 0, 4 * two.side, 0});
    auto wanted = two.shifted(5);
    std::ranges::for_each(wanted, [](float & value) { value *= 2; });
    EXPECT_EQ(two.client.read(two.result(0), two.side), wanted);
}

TEST(TwoDevices, GraphsAndBuffersAreReplacedWhileInUse) {
    TwoDevices two;
    two.client.write(two.first(0), two.row(1));
    two.compute(0);
    two.compute(0);  // in the same graph slot
    EXPECT_EQ(two.client.read(two.result(0), two.side), two.shifted(1));
    two.compute(0);
    two.compute(1);
    two.client.peer.ask(Command::free_buffer, wire::BufferRequest{two.buffers[0]});
    two.client.peer.ask(Command::free_buffer, wire::BufferRequest{two.buffers[1]});
    two.client.post(wire::NativeCommand::launch, wire::LaunchRequest{0});
    EXPECT_EQ(two.client.receive_text().first, wire::ReplyKind::launch_failed);
    EXPECT_EQ(two.client.leave().code, Errc::closed);
}

TEST(TwoDevices, FailureIsReportedBeforeNextReply) {
    TwoDevices two;
    two.devices.abort_computation();
    two.compute(1);
    two.client.post(wire::NativeCommand::read, wire::ReadRequest{two.result(0), 0, 4});
    EXPECT_EQ(two.client.peer.receive_reply()->size(), 4u) << "the other device is unaffected";
    two.client.post(wire::NativeCommand::read, wire::ReadRequest{two.result(1), 0, 4});
    const auto text = two.client.receive_text();
    EXPECT_EQ(text.first, wire::ReplyKind::launch_failed);
    EXPECT_TRUE(text.second.contains("could not compute the graph")) << text.second;
    EXPECT_EQ(two.client.peer.receive_reply()->size(), 4u);
}

TEST(TwoDevices, FailureEndsStockSession) {
    Devices devices = two_cpu_devices();
    BufferClient client{devices};
    devices.abort_computation();
    const auto tensors = client.sum();
    client.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, tensors));
    client.peer.ask(Command::get_tensor, wire::GetTensorRequest{tensors[2], 0, 16});
    EXPECT_FALSE(client.peer.receive_reply());
    EXPECT_TRUE(client.end().text.contains("could not compute the graph")) << client.end().text;
}

TEST(TwoDevices, ClientLeavesWhileBothCompute) {
    TwoDevices two;
    two.compute(0);
    two.compute(1);
    two.client.peer.close();
    EXPECT_EQ(two.client.end().code, Errc::closed);
}

}  // namespace
}  // namespace caravan::server
