#include "server/graph/warm_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "client/encode/tensor_encoding.h"
#include "server/graph/warm_up.h"
#include "support/cpu_device.h"
#include "support/graph_kit.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

struct WarmGraphs : testing::Test {
    // The graph of these results, as a client sends it.
    WarmGraph graph(std::initializer_list<ggml_tensor *> results, uint32_t device = 0) {
        const auto handle_of = kit.handle_of();
        return {device, client::encode_native_graph(client::collect_graph(*kit.graph(results, 1), handle_of), handle_of)};
    }
    ggml_tensor * place(ggml_tensor * tensor) { return kit.place(tensor); }
    ggml_context * context() { return kit.context(); }
    WarmGraph silu(int64_t size) { return graph({place(ggml_silu(context(), kit.f32(size)))}); }
    WarmGraph layers(int count) {
        ggml_tensor * state = kit.f32(32);
        for (int i = 0; i < count; ++i) {
            state = place(ggml_silu(context(), place(ggml_mul_mat(context(), kit.f32(32, 32), state))));
        }
        return graph({state});
    }

    test::GraphKit kit;
};

std::vector<std::byte> encode(const std::vector<WarmGraph> & graphs, size_t limit = SIZE_MAX) {
    std::vector<GraphView> views;
    for (const WarmGraph & graph : graphs) {
        views.push_back({graph.device, graph.tensors});
    }
    return encode_warm_graphs(views, limit);
}

size_t nodes_of(const WarmGraph & graph) {
    return static_cast<size_t>(std::ranges::count(graph.tensors, 1u, &wire::GraphTensor::is_node));
}

TEST_F(WarmGraphs, LeastWorkComesFirst) {
    const WarmGraph large = graph({place(ggml_mul_mat(context(), kit.f32(64, 32), kit.f32(64, 3)))}, 3);
    EXPECT_EQ(work_of(large), 64.0 * 32 * 3);
    const auto decoded = decode_warm_graphs(encode({large, silu(64)}));
    ASSERT_EQ(decoded.size(), 2u);
    EXPECT_EQ(decoded[0].tensors.size(), 2u);
    EXPECT_EQ(decoded[1].device, 3u);
    EXPECT_EQ(work_of(decoded[1]), work_of(large));
}

TEST_F(WarmGraphs, NamesAndAddressesAreLeftOut) {
    WarmGraph named = silu(64);
    constexpr std::string_view secret = "a secret name";
    std::ranges::copy(secret, named.tensors[0].name);
    const auto bytes = encode({named});
    EXPECT_EQ(std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()).find("secret"),
              std::string_view::npos);
    for (const wire::GraphTensor & tensor : decode_warm_graphs(bytes).at(0).tensors) {
        EXPECT_EQ(tensor.address, 0u);
        EXPECT_EQ(tensor.name[0], '\0');
    }
}

TEST_F(WarmGraphs, EqualLayersAreComputedOnce) {
    const auto few = decode_warm_graphs(encode({layers(8)}));
    const auto many = decode_warm_graphs(encode({layers(30)}));
    ASSERT_EQ(few.size(), 1u);
    ASSERT_EQ(many.size(), 1u);
    EXPECT_EQ(nodes_of(few[0]), nodes_of(many[0]));
    EXPECT_LT(nodes_of(many[0]), 20u);
    EXPECT_LT(many[0].tensors.size(), 45u) << "without the weights of the others";
    EXPECT_TRUE(WarmUp(test::cpu_devices()).compute(many[0]));
}

TEST_F(WarmGraphs, EqualGraphsAreComputedOnce) {
    EXPECT_EQ(decode_warm_graphs(encode({silu(64), silu(64), silu(32)})).size(), 2u);
    EXPECT_EQ(hash_of(decode_warm_graphs(encode({silu(64)}))[0]),
              hash_of(decode_warm_graphs(encode({silu(64)}))[0]));
}

TEST_F(WarmGraphs, TheLimitHolds) {
    const WarmGraph small = silu(64), large = layers(8);
    const size_t size = encode({small}).size();
    EXPECT_EQ(encode({large, small}, size).size(), size);
    EXPECT_TRUE(encode({small}, size - 1).empty());
    WarmGraph huge = silu(64);
    huge.tensors.resize(tunable::max_warm_up_tensors + 1);
    EXPECT_TRUE(encode({huge}).empty());
}

// A session may hold graphs that were refused.
TEST_F(WarmGraphs, InvalidReferencesAreDropped) {
    WarmGraph invalid = layers(2);
    invalid.tensors.back().src[0] = 1000;
    invalid.tensors.back().view_src = UINT32_MAX;
    const auto decoded = decode_warm_graphs(encode({invalid}));
    ASSERT_EQ(decoded.size(), 1u);
    EXPECT_EQ(decoded[0].tensors.back().src[0], 0u);
    EXPECT_EQ(decoded[0].tensors.back().view_src, 0u);
}

TEST_F(WarmGraphs, NothingBeyondMalformedBytesIsUsed) {
    const size_t first = encode({silu(32)}).size();
    const auto bytes = encode({silu(64), silu(32)});
    for (size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_EQ(decode_warm_graphs(ConstBytes(bytes).first(size)).size(), size / first) << size;
    }
    for (size_t i = 0; i < bytes.size(); ++i) {
        auto damaged = bytes;
        damaged[i] ^= std::byte{0xff};
        for (const WarmGraph & graph : decode_warm_graphs(damaged)) {
            (void)WarmUp(test::cpu_devices()).compute(graph);
        }
    }
}

}  // namespace
}  // namespace caravan::server
