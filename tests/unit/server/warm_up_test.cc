#include "server/graph/warm_up.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "client/encode/tensor_encoding.h"
#include "support/cpu_device.h"
#include "support/graph_kit.h"

namespace caravan::server {
namespace {

struct WarmUpTest : testing::Test {
    // The graph of these results, as a client sends it.
    std::vector<wire::GraphTensor> tensors(std::initializer_list<ggml_tensor *> results) {
        const auto handle_of = kit.handle_of();
        return client::encode_native_graph(client::collect_graph(*kit.graph(results, 1), handle_of), handle_of);
    }
    Result<> compute(std::initializer_list<ggml_tensor *> results) { return compute({0, tensors(results)}); }
    Result<> compute(const WarmGraph & graph) { return WarmUp(test::cpu_devices()).compute(graph); }
    ggml_tensor * indices(int64_t count) { return kit.place(ggml_new_tensor_1d(kit.context(), GGML_TYPE_I32, count)); }
    ggml_tensor * place(ggml_tensor * tensor) { return kit.place(tensor); }
    ggml_context * context() { return kit.context(); }

    test::GraphKit kit;
};

TEST_F(WarmUpTest, ComputesAGraphWithRowNumbersOfTheClient) {
    ggml_tensor * rows = place(ggml_get_rows(context(), kit.f32(64, 10), indices(3)));
    ggml_tensor * product = place(ggml_mul_mat(context(), kit.f32(64, 32), rows));
    ggml_tensor * halves = ggml_view_1d(context(), product, 16, 16 * sizeof(float));
    halves->buffer = product->buffer;
    halves->data = static_cast<char *>(product->data) + 16 * sizeof(float);
    EXPECT_TRUE(compute({place(ggml_silu(context(), halves))}));
}

// As those of a model with experts.
TEST_F(WarmUpTest, ReplacesComputedRowNumbersByZeros) {
    ggml_tensor * order = place(ggml_argsort(context(), kit.f32(5), GGML_SORT_ORDER_ASC));
    EXPECT_TRUE(compute({place(ggml_get_rows(context(), kit.f32(64, 1), order))})) << "one row, so no other number is valid";
}

TEST_F(WarmUpTest, RefusesRowNumbersThatAreNotZeros) {
    auto graph = tensors({place(ggml_silu(context(), kit.f32(3))),
                          place(ggml_get_rows(context(), kit.f32(64, 2), indices(3)))});
    const auto index = std::ranges::find(graph, uint32_t{GGML_TYPE_I32}, &wire::GraphTensor::type);
    const auto floats = std::ranges::find(graph, 3u, [](const wire::GraphTensor & tensor) { return tensor.ne[0]; });
    ASSERT_NE(index, graph.end());
    index->view_src = static_cast<uint32_t>(floats - graph.begin()) + 1;
    const auto done = compute({0, graph});
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().text, "it computes row numbers");
}

TEST_F(WarmUpTest, RefusesRowsOfTensorsWithoutRows) {
    auto graph = tensors({place(ggml_get_rows(context(), kit.f32(64, 2), indices(3)))});
    for (wire::GraphTensor & tensor : graph) {
        if (tensor.is_node == 0 && tensor.type == GGML_TYPE_F32) {
            tensor.ne[1] = 0;
        }
    }
    EXPECT_FALSE(compute({0, graph}));
}

TEST_F(WarmUpTest, RefusesGraphsThatWriteRowNumbers) {
    ggml_tensor * index = indices(3);
    ggml_tensor * order = place(ggml_argsort(context(), kit.f32(3), GGML_SORT_ORDER_ASC));
    ggml_tensor * written = ggml_cpy(context(), order, index);
    written->buffer = index->buffer;
    written->data = index->data;
    const auto done = compute({written, place(ggml_get_rows(context(), kit.f32(64, 2), index))});
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().text, "it writes row numbers");
}

TEST_F(WarmUpTest, RefusesViewsBeyondTheirSource) {
    ggml_tensor * source = kit.f32(64);
    ggml_tensor * view = ggml_view_1d(context(), source, 32, 0);
    view->buffer = source->buffer;
    view->data = source->data;
    auto graph = tensors({place(ggml_silu(context(), view))});
    for (wire::GraphTensor & tensor : graph) {
        if (tensor.view_src != 0) {
            tensor.view_offs = uint64_t{1} << 40;
        }
    }
    EXPECT_FALSE(compute({0, graph}));
    for (wire::GraphTensor & tensor : graph) {
        if (tensor.view_src != 0) {
            tensor.view_src = 1000;
        }
    }
    EXPECT_FALSE(compute({0, graph}));
}

TEST_F(WarmUpTest, RefusesLargeTensorsAndUnknownDevices) {
    auto graph = tensors({place(ggml_silu(context(), kit.f32(64)))});
    EXPECT_FALSE(compute({7, graph}));
    for (wire::GraphTensor & tensor : graph) {
        tensor.ne[1] = 1 << 26;
        tensor.nb[2] = tensor.nb[3] = tensor.nb[1] << 26;
    }
    const auto done = compute({0, graph});
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::no_memory);
}

TEST_F(WarmUpTest, LeavesOutNodesWithLargeTensors) {
    ggml_tensor * small = place(ggml_silu(context(), kit.f32(64)));
    auto graph = tensors({small, place(ggml_gelu(context(), kit.f32(32)))});
    for (wire::GraphTensor & tensor : graph) {
        if (tensor.ne[0] == 32) {
            tensor.ne[1] = 1 << 26;
            tensor.nb[2] = tensor.nb[3] = tensor.nb[1] << 26;
        }
    }
    EXPECT_TRUE(compute({0, graph}));
}

}  // namespace
}  // namespace caravan::server
