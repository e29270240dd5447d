#include "base/formatted.h"
#include "server/graph/graph_builder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "support/cpu_device.h"
#include "support/encoded_graph.h"
#include "support/graph_kit.h"
#include "support/wire_tensor.h"

namespace caravan::server {
namespace {

using test::as_floats;
using test::f32_tensor;
using test::floats;
using test::graph_payload;
using test::node_of;
using test::operator+;
using test::wire_tensor;

class GraphBuilder : public testing::Test {
protected:
    static constexpr uint64_t size = 64 * 1024;

    GraphBuilder() : buffer(table.allocate(test::cpu_devices().buffer_type(0), 0, size).value()) {
        std::memset(memory(0), 0, size);
    }

    std::byte * memory(uint64_t offset) { return table.find(buffer)->base + offset; }
    void write(uint64_t offset, const std::vector<float> & values) {
        std::memcpy(memory(offset), values.data(), values.size() * sizeof(float));
    }
    std::vector<float> read(uint64_t offset, size_t count) {
        return as_floats(ConstBytes(memory(offset), count * sizeof(float)));
    }
    Result<Graph> build(ConstBytes payload) {
        return describe_stock_graph(payload).and_then([&](const GraphDescription & description) {
            return build_graph(description, test::cpu_devices().device(0), table);
        });
    }
    Result<Graph> build(const std::vector<uint64_t> & nodes, const std::vector<wire::Tensor> & tensors) {
        return build(graph_payload(0, 1, nodes, tensors));
    }
    void compute(Graph & graph) {
        ASSERT_EQ(test::cpu_devices().compute(0, graph.graph), GGML_STATUS_SUCCESS);
        test::cpu_devices().synchronize(0);
    }

    // 1 + 2 = 3, four floats each, 64 bytes apart.
    std::vector<wire::Tensor> sum() {
        return {place(1, 0), place(2, 64), node_of(place(3, 128), GGML_OP_ADD, {1, 2})};
    }
    wire::Tensor place(uint64_t id, uint64_t offset) { return f32_tensor(id, {4, 1, 1, 1}, buffer, buffer + offset); }

    // Expects sum() to be refused after `spoil`.
    void expect_refused(const std::function<void(std::vector<wire::Tensor> &)> & spoil, const char * what) {
        auto tensors = sum();
        spoil(tensors);
        const auto graph = build({3}, tensors);
        EXPECT_FALSE(graph) << what;
        if (!graph) {
            EXPECT_FALSE(graph.error().text.empty());
        }
    }

    BufferTable table;
    uint64_t buffer;
};

TEST_F(GraphBuilder, ComputesASum) {
    write(0, {1, 2, 3, 4});
    write(64, {10, 20, 30, 40});
    auto graph = build({3}, sum());
    ASSERT_TRUE(graph) << graph.error().text;
    compute(*graph);
    EXPECT_EQ(read(128, 4), (std::vector<float>{11, 22, 33, 44}));
    EXPECT_EQ(graph->buffers, std::vector<uint64_t>{buffer});
    EXPECT_TRUE(graph->uses(buffer));
    EXPECT_FALSE(graph->uses(buffer + 1));
    write(0, {0, 0, 0, 1});  // and again, with other inputs
    compute(*graph);
    EXPECT_EQ(read(128, 4), (std::vector<float>{10, 20, 30, 41}));
}

// Builds what the client encodes: products, views, broadcast, use counts.
TEST_F(GraphBuilder, ComputesWhatTheClientEncodes) {
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    ggml_backend_buffer remote{};
    uint64_t next = buffer;
    const auto placed = [&](ggml_tensor * tensor) {
        tensor->buffer = &remote;
        tensor->data = reinterpret_cast<void *>(next);
        next += (ggml_nbytes(tensor) + 63) / 64 * 64;
        return tensor;
    };
    ggml_tensor * weights = placed(ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 3, 4));
    ggml_tensor * x = placed(ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 3, 2));
    ggml_tensor * bias = placed(ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 4));
    ggml_tensor * product = placed(ggml_mul_mat(context.get(), weights, x));
    ggml_tensor * result = placed(ggml_add(context.get(), product, bias));
    ggml_tensor * row = ggml_view_1d(context.get(), result, 4, result->nb[1]);
    row->buffer = &remote;
    row->data = static_cast<char *>(result->data) + result->nb[1];
    ggml_tensor * negated = placed(ggml_neg(context.get(), row));
    ggml_cgraph * graph = ggml_new_graph_custom(context.get(), 16, false);
    ggml_build_forward_expand(graph, negated);
    const auto encoded = test::encode_graph(*graph, 0, [&](ggml_backend_buffer_t) { return buffer; });

    const auto at = [&](const ggml_tensor * tensor) { return reinterpret_cast<uint64_t>(tensor->data) - buffer; };
    write(at(weights), {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1});
    write(at(x), {1, 2, 3, 4, 5, 6});
    write(at(bias), {100, 200, 300, 400});
    auto built = build(encoded.payload);
    ASSERT_TRUE(built) << built.error().text;
    compute(*built);
    EXPECT_EQ(read(at(result), 8), (std::vector<float>{101, 202, 303, 406, 104, 205, 306, 415}));
    EXPECT_EQ(read(at(negated), 4), (std::vector<float>{-104, -205, -306, -415}));
}

TEST_F(GraphBuilder, AcceptsEmptyGraph) {
    auto graph = build({}, {});
    ASSERT_TRUE(graph) << graph.error().text;
    compute(*graph);
    EXPECT_TRUE(graph->buffers.empty());
    EXPECT_TRUE(build({}, sum()));
}

TEST_F(GraphBuilder, RefusesBadTypes) {
    for (const uint32_t type : {4u, 5u, 31u, 36u, uint32_t{GGML_TYPE_COUNT}, 255u, UINT32_MAX}) {
        expect_refused([&](auto & tensors) { tensors[0].type = type; }, "type of a source");
        expect_refused([&](auto & tensors) { tensors[2].type = type; }, "type of a node");
    }
}

TEST_F(GraphBuilder, RefusesBadShapes) {
    expect_refused([](auto & tensors) { std::fill_n(tensors[0].ne, 4, UINT32_MAX); }, "ne overflow");
    expect_refused([](auto & tensors) { tensors[1].ne[1] = 1 << 20; }, "larger than its buffer");
    expect_refused([](auto & tensors) { tensors[1].ne[1] = 2; tensors[1].nb[1] = UINT32_MAX; }, "stride");
    expect_refused([&](auto & tensors) {
        tensors[0] = wire_tensor(1, GGML_TYPE_Q8_0, {32, 1, 1, 1}, buffer, buffer);
        tensors[0].ne[0] = 31;
    }, "part of a block");
}

TEST_F(GraphBuilder, RefusesBadAddresses) {
    for (size_t i = 0; i < 3; ++i) {
        expect_refused([&](auto & tensors) { tensors[i].data = buffer + size - 15; }, "beyond the end");
        expect_refused([&](auto & tensors) { tensors[i].data = buffer - 4; }, "before the start");
        expect_refused([&](auto & tensors) { tensors[i].data = 0; }, "address 0");
        expect_refused([&](auto & tensors) { tensors[i].buffer = 0; }, "an address without a buffer");
        expect_refused([&](auto & tensors) { tensors[i].buffer = 999; }, "an unknown buffer");
        expect_refused([&](auto & tensors) { tensors[i].buffer = tensors[i].data = 0; }, "no data at all");
    }
}

TEST_F(GraphBuilder, RefusesBadIds) {
    expect_refused([](auto & tensors) { tensors[1].id = 0; }, "id 0");
    expect_refused([&](auto & tensors) { tensors.push_back(place(0, 192)); }, "unreferenced id 0");
    expect_refused([](auto & tensors) { tensors[1].id = 1; }, "duplicate id");
    expect_refused([](auto & tensors) { tensors.push_back(tensors[0]); }, "duplicate tensor");
    expect_refused([](auto & tensors) { tensors[2].src[1] = 99; }, "an unknown source");
    expect_refused([](auto & tensors) { tensors[2].src[9] = 99; }, "an unknown last source");
    expect_refused([](auto & tensors) { tensors[0].src[4] = 99; }, "an unknown source of a leaf");
    expect_refused([](auto & tensors) { tensors[2].view_src = 99; }, "an unknown view source");
    EXPECT_FALSE(build({99}, sum()));
    EXPECT_FALSE(build({0}, sum()));
    EXPECT_FALSE(build({3, 0}, sum()));
    EXPECT_FALSE(build({UINT64_MAX}, sum()));
}

TEST_F(GraphBuilder, RefusesBadOps) {
    for (const uint32_t op : {uint32_t{GGML_OP_COUNT}, 999u, 0x80000000u, UINT32_MAX, uint32_t{GGML_OP_MAP_CUSTOM1},
                              uint32_t{GGML_OP_MAP_CUSTOM2}, uint32_t{GGML_OP_MAP_CUSTOM3}, uint32_t{GGML_OP_CUSTOM}}) {
        expect_refused([&](auto & tensors) { tensors[2].op = op; }, "op of a node");
        expect_refused([&](auto & tensors) { tensors[0].op = op; }, "op of a leaf");
        expect_refused([&](auto & tensors) { tensors[2].op = op; tensors[2].flags = 0; }, "op of an unmarked node");
    }
}

TEST_F(GraphBuilder, RefusesTruncatedPayload) {
    const auto payload = graph_payload(0, 1, {3}, sum());
    ASSERT_TRUE(build(payload));
    for (size_t length = 0; length < payload.size(); ++length) {
        // A separate copy, so that AddressSanitizer detects a read beyond the end.
        EXPECT_FALSE(build(std::vector(payload.begin(), payload.begin() + length))) << length;
    }
    EXPECT_FALSE(build(payload + std::vector<std::byte>(1)));
    EXPECT_FALSE(build(payload + payload));
}

TEST_F(GraphBuilder, RefusesWrongCounts) {
    for (const size_t at : {offsetof(wire::GraphComputeRequest, n_nodes), sizeof(wire::GraphComputeRequest) + 8}) {
        auto payload = graph_payload(0, 1, {3}, sum());
        const auto honest = load<uint32_t>(payload.data() + at);
        for (const uint32_t lie : {0u, honest - 1, honest + 1, 1000u, 0x20000000u, 0x7fffffffu, 0x80000000u, UINT32_MAX}) {
            if (lie != honest) {
                store(payload.data() + at, lie);
                EXPECT_FALSE(build(payload)) << at << ' ' << lie;
            }
        }
    }
}

TEST_F(GraphBuilder, SurvivesAnyCorruptByte) {
    const auto good = graph_payload(0, 1, {3}, sum());
    for (size_t at = 0; at < good.size(); ++at) {
        for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
            auto payload = good;
            payload[at] = static_cast<std::byte>(value);
            (void) build(payload);  // must not crash
        }
    }
}

TEST_F(GraphBuilder, NodeMayReadItself) {
    write(0, {1, 2, 3, 4});
    write(64, {1, 1, 1, 1});
    auto tensors = sum();
    tensors[2] = node_of(place(3, 0), GGML_OP_ADD, {3, 2});
    tensors[2].view_src = 3;
    auto graph = build({3}, tensors);
    if (graph) {
        compute(*graph);
        EXPECT_EQ(read(0, 4), (std::vector<float>{2, 3, 4, 5}));
    }
}

TEST_F(GraphBuilder, CyclesDoNotHang) {
    auto tensors = sum();
    tensors[0].src[0] = 3;
    tensors[0].view_src = 2;
    tensors[1].view_src = 1;
    if (auto graph = build({3, 3, 3}, tensors)) {
        compute(*graph);
    }
}

TEST_F(GraphBuilder, LongChainDoesNotRecurse) {
    std::vector<wire::Tensor> tensors{place(1, 0)};
    for (uint64_t id = 2; id <= 100'000; ++id) {
        tensors.push_back(node_of(place(id, 64), GGML_OP_NONE, {id - 1}));
    }
    auto payload = test::bytes_of(wire::GraphComputeRequest{0, 1, 1}) + test::bytes_of(uint64_t{100'000}) +
                   test::bytes_of(uint32_t{100'000});
    const auto raw = const_bytes(tensors.data(), tensors.size() * sizeof(wire::Tensor));
    payload.insert(payload.end(), raw.begin(), raw.end());
    EXPECT_TRUE(build(payload));
}

// The second half of 1, negated.
class ViewTest : public GraphBuilder {
protected:
    static constexpr uint64_t offset = 8;
    std::vector<wire::Tensor> negated_view() {
        wire::Tensor view = f32_tensor(2, {2, 1, 1, 1}, buffer, buffer + 64 + offset);
        view.view_src = 1;
        view.view_offs = offset;
        view.op = GGML_OP_VIEW;
        wire::Tensor result = node_of(f32_tensor(3, {2, 1, 1, 1}, buffer, buffer + 128), GGML_OP_UNARY, {2});
        const int32_t kind = GGML_UNARY_OP_NEG;
        std::memcpy(result.op_params, &kind, sizeof kind);
        return {place(1, 64), view, result};
    }
    void expect_view_refused(const std::function<void(std::vector<wire::Tensor> &)> & spoil, const char * what) {
        auto tensors = negated_view();
        spoil(tensors);
        const auto graph = build({3}, tensors);
        ASSERT_FALSE(graph) << what;
        EXPECT_NE(graph.error().text.find("view"), std::string::npos) << what << ": " << graph.error().text;
    }
};

TEST_F(ViewTest, ViewLiesAtOffsetInSource) {
    write(64, {1, 2, 3, 4});
    auto graph = build({3}, negated_view());
    ASSERT_TRUE(graph) << graph.error().text;
    compute(*graph);
    EXPECT_EQ(read(128, 2), (std::vector<float>{-3, -4}));
    const ggml_tensor & view = *graph->graph->nodes[0]->src[0];
    EXPECT_EQ(view.view_offs, offset);
    EXPECT_EQ(static_cast<std::byte *>(view.view_src->data) + view.view_offs, view.data);
}

// Back-ends with device memory use the source's address and the offset only.
TEST_F(ViewTest, RefusesOffsetThatContradictsData) {
    for (const uint64_t wrong : {uint64_t{0}, offset - 4, offset + 4, uint64_t{4096}, uint64_t{1} << 20, uint64_t{1} << 30,
                                 UINT64_MAX, uint64_t{0} - offset, uint64_t{0} - 64}) {
        expect_view_refused([&](auto & tensors) { tensors[1].view_offs = wrong; }, "of a source");
        expect_view_refused([&](auto & tensors) {
            tensors[2].view_src = 1;
            tensors[2].view_offs = wrong;
            tensors[2].data = buffer + 64 + offset;
        }, "of a result");
    }
    const auto native = [&](uint64_t wrong) {
        auto description = describe_stock_graph(graph_payload(0, 1, {3}, negated_view())).value();
        description.tensors[1].view_offs = wrong;
        return build_graph(description, test::cpu_devices().device(0), table);
    };
    EXPECT_TRUE(native(offset));
    EXPECT_FALSE(native(4096));
}

TEST_F(ViewTest, ViewMustLieInsideSource) {
    const uint64_t other = table.allocate(test::cpu_devices().buffer_type(0), 0, size).value();
    expect_view_refused([&](auto & tensors) { tensors[1].buffer = other, tensors[1].data = other + 64 + offset; },
                        "the same offset in another buffer");
    expect_view_refused([&](auto & tensors) { tensors[0].buffer = tensors[0].data = 0; }, "a source without data");
    expect_view_refused([&](auto & tensors) { tensors[0].ne[0] = 3; }, "the last element beyond its source");
    expect_view_refused([&](auto & tensors) { tensors[0].ne[0] = 0; }, "an empty source");
    expect_view_refused([&](auto & tensors) {
        tensors[1].data = buffer + 64 + 20;
        tensors[1].view_offs = 20;
    }, "behind its source");
    auto tensors = negated_view();
    tensors[1].view_src = 0;
    const auto graph = build({3}, tensors);
    ASSERT_FALSE(graph) << "an offset without a source";
}

// ggml's views refer to the last tensor of the chain, and some back-ends follow one link only.
TEST_F(ViewTest, RefusesViewOfView) {
    expect_view_refused([&](auto & tensors) {
        tensors.push_back(f32_tensor(4, {4, 1, 1, 1}, buffer, buffer + 64));
        tensors[0].view_src = 4;
    }, "a chain");
    expect_view_refused([](auto & tensors) { tensors[1].view_src = 2, tensors[1].view_offs = 0; }, "itself");
    expect_view_refused([](auto & tensors) { tensors[0].view_src = 2; }, "a circle");
}

// For tensors in another server's memory a client sends shapes only.
TEST_F(ViewTest, AcceptsViewsWithoutData) {
    auto tensors = sum();
    tensors.push_back(negated_view()[1]);
    tensors.back().id = 4;
    tensors.back().buffer = tensors.back().data = 0;
    const auto graph = build({3}, tensors);
    EXPECT_TRUE(graph) << graph.error().text;
}

TEST_F(GraphBuilder, EmptyNodesAreNotComputed) {
    auto tensors = sum();
    tensors.push_back(node_of(f32_tensor(4, {0, 7, 1, 1}, buffer, buffer + 256), GGML_OP_MUL_MAT, {1, 2}));
    tensors.push_back(node_of(f32_tensor(5, {3, 0, 1, 1}, 0, 0), GGML_OP_ADD, {}));
    write(0, {1, 2, 3, 4});
    auto graph = build({4, 3, 5}, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    ASSERT_EQ(ggml_graph_n_nodes(graph->graph), 1);
    compute(*graph);
    EXPECT_EQ(read(128, 4), (std::vector<float>{1, 2, 3, 4}));
    tensors[3].op = GGML_OP_CUSTOM;
    EXPECT_FALSE(build({4, 3}, tensors)) << "a refused op is refused when empty too";
}

// Recurrent models whose state is split among servers produce such views.
TEST_F(GraphBuilder, AcceptsEmptyViewsOutsideBuffer) {
    for (const uint64_t address : {buffer + size, buffer + size + 4096, buffer - 4, buffer + (uint64_t{1} << offset_bits)}) {
        auto tensors = sum();
        wire::Tensor view = f32_tensor(4, {0, 4, 1, 1}, buffer, address);
        view.view_src = 1;
        view.view_offs = address - buffer;
        tensors.push_back(view);
        tensors.push_back(node_of(f32_tensor(5, {0, 4, 1, 1}, buffer, buffer + 512), GGML_OP_DUP, {4}));
        tensors.push_back(node_of(f32_tensor(6, {4, 1, 1, 1}, buffer, buffer + 640), GGML_OP_CONCAT, {4, 1}));
        std::ranges::copy(std::array<uint32_t, 4>{0, 1, 1, 1}, tensors[3].ne);  // nothing, then 1
        auto graph = build({3, 5, 6}, tensors);
        ASSERT_TRUE(graph) << graph.error().text;
        const ggml_tensor & node = *graph->graph->nodes[1];
        ASSERT_EQ(node.op, GGML_OP_CONCAT);
        EXPECT_EQ(node.src[0]->view_src, nullptr);
        EXPECT_GE(node.src[0]->data, memory(0));
        EXPECT_LE(node.src[0]->data, memory(size));
        write(0, {5, 6, 7, 8});
        compute(*graph);
        EXPECT_EQ(read(640, 4), (std::vector<float>{5, 6, 7, 8}));
    }
}

// Back-ends assume that sources have buffers.
TEST_F(GraphBuilder, EmptySourcesGetABuffer) {
    auto tensors = sum();
    tensors.push_back(f32_tensor(4, {0, 1, 1, 1}, 0, 4096));  // empty, with an arbitrary address
    tensors.push_back(node_of(f32_tensor(5, {4, 1, 1, 1}, buffer, buffer + 640), GGML_OP_CONCAT, {4, 1}));
    const auto graph = build({5}, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    const ggml_tensor & node = *graph->graph->nodes[0];
    EXPECT_EQ(node.src[0]->buffer, node.buffer);
    EXPECT_NE(node.src[0]->data, nullptr);
}

TEST_F(GraphBuilder, ComputesRepeatedNode) {
    write(64, {1, 1, 1, 1});
    auto tensors = sum();
    tensors[2] = node_of(place(3, 0), GGML_OP_ADD, {1, 2});  // onto itself
    auto graph = build(std::vector<uint64_t>(1000, 3), tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    compute(*graph);
    EXPECT_EQ(read(0, 4), std::vector<float>(4, 1000));
}

TEST_F(GraphBuilder, RefusesUnsupportedNode) {
    auto tensors = sum();
    tensors[1] = wire_tensor(2, GGML_TYPE_I32, {4, 1, 1, 1}, buffer, buffer + 64);
    tensors[2].op = GGML_OP_MUL_MAT;
    EXPECT_FALSE(build({3}, tensors));
    // A valid node, but the CPU cannot quantize to this type.
    const auto source = f32_tensor(1, {256, 1, 1, 1}, buffer, buffer);
    const auto place = [&](uint64_t id) { return wire_tensor(id, GGML_TYPE_IQ2_XXS, {256, 1, 1, 1}, buffer, buffer + 4096); };
    const auto graph = build({3}, {source, place(2), node_of(place(3), GGML_OP_CPY, {1, 2})});
    ASSERT_FALSE(graph);
    EXPECT_NE(graph.error().text.find("does not support it"), std::string::npos) << graph.error().text;
}

TEST_F(GraphBuilder, TerminatesNames) {
    auto tensors = sum();
    std::memset(tensors[2].name, 'x', sizeof tensors[2].name);
    const auto graph = build({3}, tensors);
    ASSERT_TRUE(graph);
    EXPECT_EQ(std::string(graph->graph->nodes[0]->name), std::string(63, 'x'));
}

// ggml's back-ends assume that an op's sources exist.
TEST_F(GraphBuilder, RefusesNodeWithoutSources) {
    expect_refused([](auto & tensors) { tensors[2].src[1] = 0; }, "one source of a sum");
    expect_refused([](auto & tensors) { tensors[2].src[0] = tensors[2].src[1] = 0; }, "both");
}

// Names of the ops for which `attempt` crashes. Runs all ops in one child process and, only if it dies, each op in its own.
std::string deadly_ops(const std::function<void(ggml_op)> & attempt) {
    const auto all = [&] {
        for (int op = 1; op < GGML_OP_COUNT; ++op) {
            attempt(static_cast<ggml_op>(op));
        }
        return true;
    };
    std::string died;
    if (test::ask_in_child(all) == test::Outcome::died) {
        for (int op = 1; op < GGML_OP_COUNT; ++op) {
            const auto one = [&] { return attempt(static_cast<ggml_op>(op)), true; };
            if (test::ask_in_child(one) == test::Outcome::died) {
                died += formatted(" {}", ggml_op_name(static_cast<ggml_op>(op)));
            }
        }
    }
    return died;
}

// An op may be accepted without sources only if it requires none.
TEST_F(GraphBuilder, RefusesEveryOpWithoutRequiredSources) {
#ifdef CARAVAN_TEST_TSAN
    GTEST_SKIP() << "forks";
#endif
    const auto built = [&](ggml_op op) { return build({3}, {node_of(place(3, 128), op, {})}).has_value(); };
    ASSERT_EQ(deadly_ops([&](ggml_op op) { (void) built(op); }), "") << "these ops crash the worker";
    std::string passed;
    for (int op = 1; op < GGML_OP_COUNT; ++op) {
        const bool needs_none = op == GGML_OP_ARANGE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE ||
                                op == GGML_OP_PERMUTE || op == GGML_OP_TRANSPOSE || op == GGML_OP_FILL;
        if (!needs_none && built(static_cast<ggml_op>(op))) {
            passed += formatted(" {}", ggml_op_name(static_cast<ggml_op>(op)));
        }
    }
    EXPECT_EQ(passed, "") << "these ops read missing sources";
}

// Stock clients send nodes that are not marked for computation.
TEST_F(GraphBuilder, UnmarkedNodesAreNotComputed) {
    auto tensors = sum();
    write(0, {1, 2, 3, 4});
    tensors[2].flags = 0;
    auto graph = build({3}, tensors);
    ASSERT_TRUE(graph) << graph.error().text;
    compute(*graph);
    EXPECT_EQ(read(128, 4), std::vector<float>(4, 0));
}

// Back-ends inspect unmarked nodes when they plan.
TEST_F(GraphBuilder, UnmarkedNodesDoNotCrashBackend) {
#ifdef CARAVAN_TEST_TSAN
    GTEST_SKIP() << "forks";
#endif
    EXPECT_EQ(deadly_ops([&](ggml_op op) {
                  wire::Tensor node = node_of(place(3, 128), op, {});
                  node.flags = 0;
                  if (auto built = build({3}, {node})) {
                      (void) test::cpu_devices().compute(0, built->graph);
                  }
              }),
              "")
        << "these ops crash the worker, unmarked and without sources";
}

}  // namespace
}  // namespace caravan::server
