// A session whose device is a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>

#include "support/fake_gpu.h"
#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::NativeClient;
using wire::NativeCommand;

struct Memory {
    explicit Memory(bool is_unified) { test::fake_gpu().is_unified = is_unified; }
};

// Slots 0 and 1 have vectors, slot 2 their sum, which graph 0 computes.
struct GpuSession : Memory, testing::Test {
    explicit GpuSession(bool is_unified = false, const std::vector<std::string> & names = {"GPU0"})
        : Memory(is_unified), devices(test::open_with_gpu(names)) {
        client.declare(0, client.buffer);
        client.declare(1, client.buffer + 64);
        client.declare(2, client.buffer + 128);
        write(1);
        client.graph(0, client.sum());
        client.read(2);
        test::fake_gpu().waits = test::fake_gpu().copies = 0;
    }
    ~GpuSession() override { test::fake_gpu().is_unified = false; }
    void write(float value) {
        client.write(0, {value, value, value, value});
        client.write(1, {10, 20, 30, 40});
    }
    void launch(uint16_t graph = 0) { client.post(NativeCommand::launch, wire::LaunchRequest{graph}); }
    void begin_recording() {
        client.peer.request(static_cast<wire::Command>(NativeCommand::clock));
        client.peer.receive_reply_as<uint64_t>();
    }
    std::vector<wire::Span> spans() {
        const auto answer = std::make_unique<wire::SpansReply>();
        client.peer.request(static_cast<wire::Command>(NativeCommand::spans));
        const auto bytes = client.peer.receive_reply();
        std::memcpy(answer.get(), bytes->data(), sizeof *answer);
        return {answer->spans, answer->spans + answer->count};
    }
    // Until a thread waits for GPU0.
    void await_wait() {
        for (const TimePoint end = Clock::now() + seconds(10); test::fake_gpu().waits == 0 && Clock::now() < end;) {
            std::this_thread::sleep_for(milliseconds(1));
        }
        ASSERT_EQ(test::fake_gpu().waits, 1);
    }

    // Three launches, each followed by a read that waits once for both.
    void compute_tokens() {
        for (int token = 1; token <= 3; ++token) {
            const auto value = static_cast<float>(token);
            write(value);
            launch();
            EXPECT_EQ(client.read(2), (std::vector<float>{value + 10, value + 20, value + 30, value + 40}));
            EXPECT_EQ(test::fake_gpu().waits, token);
        }
    }

    Devices devices;
    NativeClient client{devices};
};

TEST_F(GpuSession, ReadAfterALaunchWaitsOnce) {
    compute_tokens();
}

TEST_F(GpuSession, ReadWithoutALaunchWaitsForItsBytesOnly) {
    EXPECT_EQ(client.read(1), (std::vector<float>{10, 20, 30, 40}));
    EXPECT_EQ(test::fake_gpu().waits, 1);
}

TEST_F(GpuSession, WriteAfterALaunchWaitsForIt) {
    write(1);
    launch();
    write(2);
    EXPECT_EQ(client.read(2), (std::vector<float>{11, 21, 31, 41}));
    EXPECT_EQ(test::fake_gpu().waits, 2);
}

constexpr milliseconds graph_time{20}, silence{1000};

// The client is silent for long after the launch: the device's time must not include that.
TEST_F(GpuSession, ComputingTimeEndsWithTheGraph) {
    begin_recording();
    test::fake_gpu().duration = graph_time;
    for (int i = 0; i < 2; ++i) {
        launch();
        std::this_thread::sleep_for(i == 0 ? silence : milliseconds(0));
        client.read(2);
    }
    test::fake_gpu().duration = milliseconds(0);
    std::vector<std::chrono::nanoseconds> computing, launching;
    for (const wire::Span & span : spans()) {
        auto & of = span.what == wire::computing(0) ? computing : launching;
        if (&of == &computing || span.what == static_cast<uint8_t>(NativeCommand::launch)) {
            of.emplace_back(span.end - span.begin);
        }
    }
    ASSERT_EQ(computing.size(), 2u);
    ASSERT_EQ(launching.size(), 2u);
    for (const auto time : computing) {
        EXPECT_GE(time, graph_time);
        EXPECT_LT(time, silence);
    }
    EXPECT_GE(launching[0], graph_time) << "nothing followed";
    client.leave();
    EXPECT_GE(microseconds(client.counters().computing_us), 2 * graph_time);
    EXPECT_LT(microseconds(client.counters().computing_us), silence);
}

// Slots 3 to 5 and graph 1 are those of GPU1.
struct TwoGpus : GpuSession {
    TwoGpus() : GpuSession(false, {"GPU0", (second(), "GPU1")}) {
        const uint64_t buffer = client.alloc(4096, 1);
        auto sum = client.sum();
        for (uint16_t i = 0; i < 3; ++i) {
            client.declare(static_cast<uint16_t>(3 + i), buffer + 64 * i);
            client.write(static_cast<uint16_t>(3 + i), {4, 3, 2, 1});
            sum[i].address = buffer + 64 * i;
        }
        client.graph(1, sum, wire::no_base, {}, 1);
        EXPECT_EQ(client.read(5), (std::vector<float>{8, 6, 4, 2}));
        test::fake_gpu().waits = 0;
    }
    ~TwoGpus() override {
        EXPECT_EQ(test::fake_gpu().collisions + second().collisions, 0);
        test::fake_gpu().duration = second().duration = milliseconds(0);
    }
    static test::FakeGpu & second() {
        static test::FakeGpu & only = *new test::FakeGpu("GPU1");
        return only;
    }
};

TEST_F(TwoGpus, ComputingTimeOfEachEndsWithItsGraph) {
    begin_recording();
    test::fake_gpu().duration = graph_time;
    second().duration = 3 * graph_time;
    launch(0);
    launch(1);
    std::this_thread::sleep_for(silence);
    std::chrono::nanoseconds computing[2] = {};
    for (const wire::Span & span : spans()) {
        for (uint32_t device = 0; device < 2; ++device) {
            computing[device] += std::chrono::nanoseconds(span.what == wire::computing(device) ? span.end - span.begin : 0);
        }
    }
    EXPECT_GE(computing[0], graph_time);
    EXPECT_GE(computing[1], 3 * graph_time);
    EXPECT_LT(computing[0] + computing[1], silence);
    client.leave();
    EXPECT_GE(microseconds(client.counters().computing_us), 4 * graph_time);
    EXPECT_LT(microseconds(client.counters().computing_us), silence);
}

TEST_F(TwoGpus, OneIsServedWhileTheOtherComputes) {
    test::fake_gpu().duration = silence;
    const TimePoint begin = Clock::now();
    launch(0);
    await_wait();
    client.write(3, {1, 1, 1, 1});
    launch(1);
    EXPECT_EQ(client.read(5), (std::vector<float>{5, 4, 3, 2}));
    EXPECT_LT(Clock::now() - begin, silence);
    EXPECT_EQ(client.read(2), (std::vector<float>{11, 21, 31, 41}));
    EXPECT_GE(Clock::now() - begin, silence);
}

TEST_F(TwoGpus, LaunchFollowsTheOneThatAThreadWaitsFor) {
    test::fake_gpu().duration = graph_time;
    launch(0);
    await_wait();
    launch(0);
    client.write(0, {2, 2, 2, 2});
    launch(0);
    EXPECT_EQ(client.read(2), (std::vector<float>{12, 22, 32, 42}));
    client.leave();
    EXPECT_GE(microseconds(client.counters().computing_us), 3 * graph_time);
}

struct UnifiedGpuSession : GpuSession {
    UnifiedGpuSession() : GpuSession(true) {}
};

TEST_F(UnifiedGpuSession, NothingIsCopied) {
    compute_tokens();
    EXPECT_EQ(test::fake_gpu().copies, 0);
    EXPECT_TRUE(devices.facts(0).has_unified_memory);
}

// Graph 1 makes an index that graph 2 uses.
TEST_F(UnifiedGpuSession, IndicesOfARunningGraphAreChecked) {
    const auto i32 = [&](uint64_t offset) {
        auto tensor = NativeClient::tensor(client.buffer + offset, 1);
        tensor.type = GGML_TYPE_I32;
        return tensor;
    };
    const auto node = [](wire::GraphTensor tensor, ggml_op op, const std::vector<uint32_t> & sources) {
        tensor.op = op;
        tensor.is_node = 1;
        tensor.flags = GGML_TENSOR_FLAG_COMPUTE;
        std::ranges::copy(sources, std::begin(tensor.src));
        return tensor;
    };
    constexpr uint64_t chosen = 512, index = 576;
    client.graph(1, {i32(chosen), node(i32(index), GGML_OP_CONT, {1})});
    client.graph(2, {NativeClient::tensor(client.buffer), i32(index),
                     node(NativeClient::tensor(client.buffer + 640), GGML_OP_GET_ROWS, {1, 2})});
    client.declare(3, client.buffer + chosen, 1);
    client.declare(4, client.buffer + 640);
    EXPECT_EQ(client.read(4), (std::vector<float>{1, 1, 1, 1})) << "row 0";
    client.write(3, {1000.0f});  // an index out of range, whatever its value as an integer
    client.post(NativeCommand::launch, wire::LaunchRequest{1});
    client.post(NativeCommand::launch, wire::LaunchRequest{2});
    const auto [kind, text] = client.receive_text();
    EXPECT_EQ(kind, wire::ReplyKind::launch_failed);
    EXPECT_TRUE(text.contains("out of range")) << text;
}

}  // namespace
}  // namespace caravan::server
