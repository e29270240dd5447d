#include "server/graph/graph_runs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::f32_tensor;
using test::node_of;

// Two CPU devices with a queue each, a buffer of 4 KiB on each, and sums of two vectors.
struct RunningGraphs {
    RunningGraphs() {
        for (uint32_t device = 0; device < 2; ++device) {
            buffers[device] = table.allocate(devices.buffer_type(device), device, 4096).value();
        }
        runs.on_failed = [this](uint32_t device) { failed.push_back(device); };
    }
    float * at(uint32_t device, uint64_t offset) {
        return reinterpret_cast<float *>(table.find(buffers[device])->base + offset);
    }
    wire::Tensor place(uint64_t id, uint32_t device, uint64_t offset) {
        return f32_tensor(id, {4, 1, 1, 1}, buffers[device], buffers[device] + offset);
    }
    // On `device`: its vector at 0 plus the vector at 64 of `other`, stored at 128.
    Graph sum(uint32_t device, uint32_t other) {
        const std::vector<wire::Tensor> tensors{place(1, device, 0), place(2, other, 64),
                                                node_of(place(3, device, 128), GGML_OP_ADD, {1, 2})};
        auto graph = describe_stock_graph(test::graph_payload(device, 1, {3}, tensors))
                         .and_then([&](const GraphDescription & description) {
                             return build_graph(description, devices.device(device), table);
                         });
        EXPECT_TRUE(graph);
        return std::move(*graph);
    }

    Devices devices = test::two_cpu_devices();
    BufferTable table;
    uint64_t buffers[2] = {};
    Spans spans;
    GraphRuns runs{devices, spans};
    std::vector<uint32_t> failed;
};

TEST(GraphRuns, LaunchIsWaitedForBySynchronize) {
    RunningGraphs running;
    Graph graph = running.sum(0, 0);
    running.at(0, 0)[3] = 1;
    running.at(0, 64)[3] = 10;
    ASSERT_TRUE(running.runs.launch(0, graph));
    EXPECT_TRUE(running.devices.is_running(0));
    ASSERT_TRUE(running.runs.synchronize(0));
    EXPECT_FALSE(running.devices.is_running(0));
    EXPECT_EQ(running.at(0, 128)[3], 11.0F);
    EXPECT_EQ(running.runs.launches(), 1u);
}

TEST(GraphRuns, GraphThatUsesAnotherDevicesBufferWaitsForIt) {
    RunningGraphs running;
    Graph first = running.sum(1, 1), second = running.sum(0, 1);
    ASSERT_TRUE(running.runs.launch(1, first));
    ASSERT_TRUE(running.runs.launch(0, second));
    EXPECT_FALSE(running.devices.is_running(1)) << "before the launch";
    EXPECT_FALSE(running.devices.is_running(0)) << "the launch itself";
}

TEST(GraphRuns, EachFailureIsReturnedOnce) {
    RunningGraphs running;
    Graph graph = running.sum(1, 1);
    running.devices.abort_computation();
    ASSERT_TRUE(running.runs.launch(1, graph));
    const auto waited = running.runs.synchronize();
    ASSERT_FALSE(waited);
    EXPECT_TRUE(waited.error().text.contains("could not compute the graph")) << waited.error().text;
    EXPECT_EQ(running.failed, std::vector<uint32_t>{1});
    EXPECT_TRUE(running.runs.synchronize());
    ASSERT_TRUE(running.runs.launch(1, graph));
    EXPECT_FALSE(running.runs.launch(1, graph)) << "the previous launch failed";
    EXPECT_EQ(running.failed, (std::vector<uint32_t>{1, 1}));
}

TEST(GraphRuns, RecordsSpansOfQueuedGraphs) {
    RunningGraphs running;
    running.spans.begin_recording();
    Graph graph = running.sum(1, 1);
    ASSERT_TRUE(running.runs.launch(1, graph));
    ASSERT_TRUE(running.runs.synchronize());
    const auto answer = std::make_unique<wire::SpansReply>();
    running.spans.take(*answer);
    ASSERT_EQ(+answer->count, 1u);
    EXPECT_EQ(+answer->spans[0].what, wire::computing(1));
    EXPECT_GT(running.runs.busy().count(), 0);
}

}  // namespace
}  // namespace caravan::server
