// What a worker does with graphs of earlier sessions, which a compromised worker may have written.
#include "server/worker/warm_ups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "client/encode/tensor_encoding.h"
#include "platform/shared_memory.h"
#include "support/cpu_device.h"
#include "support/graph_kit.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

class WarmUpsTest : public testing::Test {
protected:
    static constexpr uint64_t size = tunable::warm_up_bytes;

    // Two graphs.
    std::vector<std::byte> encoded() {
        std::vector<std::vector<wire::GraphTensor>> tensors;
        std::vector<GraphView> views;
        for (const int64_t length : {64, 32}) {
            ggml_tensor * result = kit.place(ggml_silu(kit.context(), kit.f32(length)));
            const auto handle_of = kit.handle_of();
            const auto collected = client::collect_graph(*kit.graph({result}, 1), handle_of);
            tensors.push_back(client::encode_native_graph(collected, handle_of));
        }
        for (const auto & graph : tensors) {
            views.push_back({0, graph});
        }
        return encode_warm_graphs(views, size);
    }
    int compute_all() {
        int count = 0;
        for (; warm_ups.has_next() && count < 100'000; ++count) {
            warm_ups.compute_next();
        }
        return count;
    }

    test::GraphKit kit;
    const std::vector<std::byte> graphs = encoded();
    WarmUps warm_ups{test::cpu_devices()};
    UniqueFd memory = platform::make_shared_memory(size).value_or(UniqueFd());
};

TEST_F(WarmUpsTest, EachGraphIsComputedOnceInAProcess) {
    const uint64_t written = write_graphs(memory.get(), graphs);
    ASSERT_GT(written, 0u);
    warm_ups.begin(memory.get(), written);
    EXPECT_EQ(compute_all(), 2);
    warm_ups.begin(memory.get(), written);
    EXPECT_FALSE(warm_ups.has_next());
}

TEST_F(WarmUpsTest, StopForgetsTheRest) {
    warm_ups.begin(memory.get(), write_graphs(memory.get(), graphs));
    warm_ups.compute_next();
    warm_ups.stop();
    EXPECT_FALSE(warm_ups.has_next());
}

TEST_F(WarmUpsTest, InvalidMemoryIsIgnored) {
    ASSERT_GT(write_graphs(memory.get(), graphs), 0u);
    warm_ups.begin(memory.get(), size + 1);
    EXPECT_FALSE(warm_ups.has_next());
    const UniqueFd small = platform::make_shared_memory(4096).value_or(UniqueFd());
    warm_ups.begin(small.get(), 4096);
    EXPECT_FALSE(warm_ups.has_next());
    EXPECT_EQ(write_graphs(small.get(), graphs), 0u);
    EXPECT_EQ(write_graphs(memory.get(), std::vector<std::byte>(size + 1)), 0u);
    EXPECT_EQ(write_graphs(memory.get(), {}), 0u);
}

TEST_F(WarmUpsTest, GarbageIsRefused) {
    std::mt19937_64 random(1);
    std::vector<std::byte> garbage(size);
    for (int round = 0; round < 50; ++round) {
        std::ranges::generate(garbage, [&] { return static_cast<std::byte>(random()); });
        if (round % 2 == 0) {  // a valid beginning
            std::ranges::copy(graphs, garbage.begin());
        }
        ASSERT_EQ(write_graphs(memory.get(), garbage), size);
        warm_ups.begin(memory.get(), size);
        compute_all();
    }
    for (int round = 0; round < 2000; ++round) {  // valid but for some bytes
        std::vector<std::byte> damaged = graphs;
        for (int i = 0; i < 3; ++i) {
            damaged[random() % damaged.size()] = static_cast<std::byte>(random());
        }
        warm_ups.begin(memory.get(), write_graphs(memory.get(), damaged));
        compute_all();
    }
}

}  // namespace
}  // namespace caravan::server
