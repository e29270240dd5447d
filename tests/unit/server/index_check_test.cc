// Which row numbers are checked before a launch.
#include "server/ops/op_check.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "server/graph/graph_builder.h"
#include "support/cpu_device.h"
#include "support/wire_tensor.h"

namespace caravan::server {
namespace {

// Index tensors of a built graph.
class IndexCheck : public testing::Test {
protected:
    static constexpr uint64_t size = 64 * 1024;
    IndexCheck() : buffer(table.allocate(test::cpu_devices().buffer_type(0), 0, size).value()) {
        std::memset(table.find(buffer)->base, 0, size);
    }
    wire::Tensor place(uint64_t id, ggml_type type, test::Shape ne, uint64_t offset) {
        return test::wire_tensor(id, type, ne, buffer, buffer + offset);
    }
    void put(uint64_t offset, std::vector<int32_t> values) {
        std::memcpy(table.find(buffer)->base + offset, values.data(), values.size() * sizeof(int32_t));
    }
    Result<Graph> build(const std::vector<uint64_t> & nodes, const std::vector<wire::Tensor> & tensors) {
        return describe_stock_graph(test::graph_payload(0, 1, nodes, tensors)).and_then([&](const auto & description) {
            return build_graph(description, test::cpu_devices().device(0), table);
        });
    }
    // GET_ROWS: 3 of 8 rows of 4 floats, with indices at offset 1024.
    std::vector<wire::Tensor> rows() {
        return {place(1, GGML_TYPE_F32, {4, 8, 1, 1}, 0), place(2, GGML_TYPE_I32, {3, 1, 1, 1}, 1024),
                test::node_of(place(3, GGML_TYPE_F32, {4, 3, 1, 1}, 2048), GGML_OP_GET_ROWS, {1, 2})};
    }

    BufferTable table;
    uint64_t buffer;
};

TEST_F(IndexCheck, FixedIndicesAreCheckedBeforeEachLaunch) {
    const auto graph = build({3}, rows());
    ASSERT_TRUE(graph) << graph.error().text;
    ASSERT_EQ(graph->indices.size(), 1U);
    EXPECT_EQ(graph->indices[0].limit, 8);
    put(1024, {0, 7, 3});
    EXPECT_TRUE(check_indices(graph->indices));
    for (const int32_t wrong : {8, -1, INT32_MAX, INT32_MIN}) {
        put(1024, {0, 7, wrong});
        EXPECT_FALSE(check_indices(graph->indices)) << wrong;
    }
}

TEST_F(IndexCheck, ChecksStrided64BitIndices) {
    auto indices = place(2, GGML_TYPE_I64, {1, 2, 1, 1}, 1024);
    indices.nb[1] = 64;
    const auto graph =
        build({4}, {place(1, GGML_TYPE_F32, {4, 1, 2, 1}, 0), indices, place(3, GGML_TYPE_F32, {4, 8, 2, 1}, 4096),
                    test::node_of(place(4, GGML_TYPE_F32, {4, 8, 2, 1}, 4096), GGML_OP_SET_ROWS, {1, 2, 3})});
    ASSERT_TRUE(graph) << graph.error().text;
    put(1024, {7, 0});
    put(1024 + 64, {0, 0});
    EXPECT_TRUE(check_indices(graph->indices));
    put(1024 + 64, {0, 1});  // 1 << 32
    EXPECT_FALSE(check_indices(graph->indices));
}

TEST_F(IndexCheck, ComputedIndicesAreNotChecked) {
    auto tensors = rows();
    tensors[1] = test::node_of(tensors[1], GGML_OP_ARGSORT, {4});
    tensors.push_back(place(4, GGML_TYPE_F32, {3, 1, 1, 1}, 3072));
    const auto graph = build({2, 3}, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    EXPECT_TRUE(graph->indices.empty());
}

TEST_F(IndexCheck, SharedIndicesAreCheckedOnce) {
    auto tensors = rows();
    std::vector<uint64_t> nodes{3};
    for (uint64_t id = 4; id < 40; ++id) {
        tensors.push_back(test::node_of(place(id, GGML_TYPE_F32, {4, 3, 1, 1}, 2048 + 64 * id), GGML_OP_GET_ROWS, {1, 2}));
        nodes.push_back(id);
    }
    const auto graph = build(nodes, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    EXPECT_EQ(graph->indices.size(), 1U);
}

}  // namespace
}  // namespace caravan::server
