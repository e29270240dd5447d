#include "client/encode/tensor_encoding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "support/encoded_graph.h"
#include "support/graph_kit.h"
#include "support/wire_peer.h"

namespace caravan::client {
namespace {

using test::GraphKit;

uint64_t id_of(const ggml_tensor * tensor) { return reinterpret_cast<uint64_t>(tensor); }

struct Decoded {
    wire::GraphComputeRequest head{};
    std::vector<uint64_t> nodes;
    std::vector<wire::Tensor> tensors;
    std::map<uint64_t, wire::Tensor> by_id;

    explicit Decoded(const test::EncodedGraph & graph) {
        const std::byte * at = graph.payload.data();
        head = load<wire::GraphComputeRequest>(at);
        at += sizeof head;
        for (uint32_t i = 0; i < head.n_nodes; ++i, at += 8) {
            nodes.push_back(load<uint64_t>(at));
        }
        const auto count = load<uint32_t>(at);
        at += 4;
        for (uint32_t i = 0; i < count; ++i, at += sizeof(wire::Tensor)) {
            tensors.push_back(load<wire::Tensor>(at));
            const uint64_t id = tensors.back().id;
            EXPECT_TRUE(by_id.emplace(id, tensors.back()).second) << "a tensor twice";
        }
        EXPECT_EQ(at, graph.payload.data() + graph.payload.size());
    }
};

TEST(CanCarry, OrdinaryNodes) {
    GraphKit kit;
    EXPECT_TRUE(can_carry(*ggml_add(kit.context(), kit.f32(8), kit.f32(8)), false));
    EXPECT_TRUE(can_carry(*ggml_mul_mat(kit.context(), kit.f32(8, 4), kit.f32(8, 2)), false));
    EXPECT_TRUE(can_carry(*kit.f32(8), false));
}

TEST(CanCarry, NoFunctionPointers) {
    GraphKit kit;
    ggml_tensor * a = kit.f32(8);
    EXPECT_FALSE(can_carry(*ggml_map_custom1(kit.context(), a, [](auto...) {}, 1, nullptr), false));
    EXPECT_FALSE(can_carry(*ggml_map_custom2(kit.context(), a, a, [](auto...) {}, 1, nullptr), false));
    EXPECT_FALSE(can_carry(*ggml_map_custom3(kit.context(), a, a, a, [](auto...) {}, 1, nullptr), false));
    const auto ignore = [](auto...) {};
    EXPECT_FALSE(can_carry(*ggml_custom_4d(kit.context(), GGML_TYPE_F32, 1, 1, 1, 1, &a, 1, ignore, 1, nullptr), false));
}

// Strides have 32 bits in the stock dialect. Rows of 2^30 floats take 4 GiB, one byte too many.
TEST(CanCarry, NoStridesOfFourGibibytes) {
    GraphKit kit;
    ggml_tensor * large = ggml_new_tensor_2d(kit.context(), GGML_TYPE_F32, int64_t{1} << 30, 2);
    ASSERT_EQ(large->nb[1], uint64_t{1} << 32);
    EXPECT_FALSE(can_carry(*large, false));
    EXPECT_FALSE(can_carry(*ggml_scale(kit.context(), large, 2), false)) << "nor its result";
    ggml_tensor * part = ggml_view_2d(kit.context(), large, 8, 2, 64, 0);
    EXPECT_FALSE(can_carry(*part, false)) << "nor a view of it";
    ggml_tensor * use = ggml_scale(kit.context(), part, 2);
    EXPECT_FALSE(can_carry(*use, false)) << "nor a node with such a source";

    ggml_tensor * almost = ggml_new_tensor_2d(kit.context(), GGML_TYPE_F32, (int64_t{1} << 30) - 1, 1);
    EXPECT_TRUE(can_carry(*almost, false)) << almost->nb[1];
}

TEST(CanCarry, NoExtentsBeyond32Bits) {
    GraphKit kit;
    ggml_tensor * tensor = kit.f32(8);
    for (const int64_t extent : {int64_t{-1}, int64_t{1} << 32, INT64_MIN}) {
        tensor->ne[3] = extent;
        EXPECT_FALSE(can_carry(*tensor, false)) << extent;
    }
    tensor->ne[3] = UINT32_MAX;
    EXPECT_TRUE(can_carry(*tensor, false));
}

TEST(EncodeRegion, DescribesTypeShapeAndAddress) {
    GraphKit kit;
    const ggml_tensor * tensor = kit.place(ggml_new_tensor_3d(kit.context(), GGML_TYPE_Q8_0, 64, 3, 2));
    const wire::Tensor out = stock_tensor(encode_region(*tensor, GraphKit::handle));
    EXPECT_EQ(+out.type, uint32_t{GGML_TYPE_Q8_0});
    EXPECT_EQ(+out.buffer, GraphKit::handle);
    EXPECT_EQ(+out.data, reinterpret_cast<uint64_t>(tensor->data));
    EXPECT_NE(+out.id, 0u);
    const uint32_t ne[] = {64, 3, 2, 1}, nb[] = {34, 68, 204, 408};
    EXPECT_EQ(std::memcmp(out.ne, ne, sizeof ne), 0);
    EXPECT_EQ(std::memcmp(out.nb, nb, sizeof nb), 0);
    EXPECT_EQ(encode_region(*tensor, 0).address, 0u) << "addresses of other servers are not sent";
}

TEST(BufferOf, ViewLiesInTheBufferOfItsSource) {
    GraphKit kit;
    ggml_tensor * unplaced = ggml_new_tensor_1d(kit.context(), GGML_TYPE_F32, 8);
    EXPECT_EQ(buffer_of(*unplaced), nullptr);
    ggml_tensor * source = kit.f32(8, 3);
    EXPECT_EQ(buffer_of(*source), kit.ours());
    ggml_tensor * row = ggml_view_1d(kit.context(), source, 8, 32);
    EXPECT_EQ(buffer_of(*row), kit.ours()) << "not initialized by ggml yet";
    row->buffer = kit.foreign();
    EXPECT_EQ(buffer_of(*row), kit.ours());
    ggml_tensor * half = ggml_view_1d(kit.context(), row, 4, 16);
    EXPECT_EQ(buffer_of(*half), kit.ours());
}

TEST(RangeOf, CoversExactlyTheTensor) {
    GraphKit kit;
    const ggml_tensor * tensor = kit.f32(10, 3);
    const uint64_t data = reinterpret_cast<uint64_t>(tensor->data);
    EXPECT_EQ(range_of(*tensor), (Range{data, data + 120}));
    EXPECT_EQ(range_of(*tensor, 8, 16), (Range{data + 8, data + 24}));
    const ggml_tensor * every_other = ggml_view_2d(kit.context(), kit.f32(10, 6), 10, 3, 80, 0);
    EXPECT_EQ(range_of(*every_other).end - range_of(*every_other).begin, 200u);
}

TEST(EncodeGraph, ContainsDirectSourcesAndTheirViews) {
    GraphKit kit;
    ggml_tensor * a = kit.f32(8, 4);
    ggml_tensor * row = ggml_view_1d(kit.context(), a, 8, 32);
    row->buffer = kit.ours();
    row->data = static_cast<char *>(a->data) + 32;
    ggml_tensor * b = kit.f32(8);
    ggml_tensor * sum = kit.place(ggml_add(kit.context(), row, b));
    ggml_set_name(sum, "sum");
    ggml_set_name(a, "a");
    ggml_tensor * twice = kit.place(ggml_scale(kit.context(), sum, 2));
    const test::EncodedGraph encoded = test::encode_graph(*kit.graph({twice}, 77), 3, kit.handle_of());
    const Decoded decoded(encoded);

    EXPECT_EQ(+decoded.head.device, 3u);
    EXPECT_EQ(+decoded.head.uid, 77u);
    EXPECT_EQ(encoded.n_nodes, decoded.head.n_nodes);
    // ggml marks the view as a node too. The computed nodes must be present and in order.
    const auto at = [&](const ggml_tensor * t) { return std::ranges::find(decoded.nodes, id_of(t)); };
    ASSERT_NE(at(sum), decoded.nodes.end());
    ASSERT_NE(at(twice), decoded.nodes.end());
    EXPECT_LT(at(sum), at(twice));
    for (const ggml_tensor * tensor : {a, row, b, sum, twice}) {
        ASSERT_TRUE(decoded.by_id.contains(id_of(tensor))) << tensor->name;
    }
    const wire::Tensor & got = decoded.by_id.at(id_of(sum));
    EXPECT_EQ(+got.op, uint32_t{GGML_OP_ADD});
    EXPECT_EQ(+got.src[0], id_of(row));
    EXPECT_EQ(+got.src[1], id_of(b));
    EXPECT_EQ(+got.src[2], 0u);
    EXPECT_STREQ(got.name, "sum");
    EXPECT_TRUE(got.flags & GGML_TENSOR_FLAG_COMPUTE);
    EXPECT_EQ(+got.use_count, 1);
    EXPECT_EQ(+decoded.by_id.at(id_of(row)).view_src, id_of(a));
    EXPECT_EQ(+decoded.by_id.at(id_of(row)).view_offs, 32u);
    EXPECT_EQ(std::memcmp(decoded.by_id.at(id_of(twice)).op_params, twice->op_params, sizeof twice->op_params), 0);
    EXPECT_TRUE(std::ranges::is_sorted(encoded.touched, {}, &Range::begin));
    for (const ggml_tensor * tensor : {row, b, sum, twice}) {
        EXPECT_TRUE(touches(encoded.touched, range_of(*tensor)) || covers(encoded.overwritten, range_of(*tensor)));
    }
}

TEST(EncodeGraph, ContainsEveryReferencedTensor) {
    GraphKit kit;
    ggml_tensor * x = kit.f32(16, 4);
    for (int i = 0; i < 5; ++i) {
        x = kit.place(ggml_mul(kit.context(), kit.place(ggml_rms_norm(kit.context(), x, 1e-5f)), kit.f32(16)));
        x = kit.place(ggml_cont(kit.context(), ggml_reshape_2d(kit.context(), x, 8, 8)));
        x = kit.place(ggml_reshape_2d(kit.context(), x, 16, 4));
    }
    const Decoded decoded(test::encode_graph(*kit.graph({x}, 1), 0, kit.handle_of()));
    for (const uint64_t node : decoded.nodes) {
        ASSERT_TRUE(decoded.by_id.contains(node));
        for (const uint64_t src : std::vector<uint64_t>{decoded.by_id.at(node).src[0], decoded.by_id.at(node).src[1]}) {
            EXPECT_TRUE(src == 0 || decoded.by_id.contains(src));
        }
    }
    for (const auto & [id, tensor] : decoded.by_id) {
        EXPECT_TRUE(tensor.view_src == 0 || decoded.by_id.contains(+tensor.view_src));
    }
}

TEST(EncodeGraph, OmitsUnmarkedNodesAndTheirSources) {
    GraphKit kit;
    ggml_tensor *a = kit.f32(8), *b = kit.f32(8), *unread = kit.f32(8);
    ggml_tensor * unmarked = kit.place(ggml_scale(kit.context(), unread, 2));
    ggml_tensor * sum = kit.place(ggml_add(kit.context(), a, b));
    ggml_cgraph * graph = kit.graph({unmarked, sum}, 5);
    unmarked->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    const test::EncodedGraph encoded = test::encode_graph(*graph, 0, kit.handle_of());
    const Decoded decoded(encoded);
    EXPECT_EQ(decoded.nodes, (std::vector<uint64_t>{id_of(sum)}));
    EXPECT_FALSE(decoded.by_id.contains(id_of(unmarked)));
    EXPECT_FALSE(decoded.by_id.contains(id_of(unread)));
    EXPECT_FALSE(touches(encoded.touched, range_of(*unread)));
    EXPECT_FALSE(touches(encoded.touched, range_of(*unmarked)));
}

TEST(EncodeGraph, OmitsNodesWithoutElements) {
    GraphKit kit;
    ggml_tensor *a = kit.f32(8, 3), *unread = kit.f32(8);
    ggml_tensor * nothing = kit.place(ggml_view_2d(kit.context(), a, 8, 0, a->nb[1], 0));
    ggml_tensor * empty = kit.place(ggml_mul_mat(kit.context(), unread, nothing));
    ggml_tensor * twice = kit.place(ggml_scale(kit.context(), a, 2));
    const test::EncodedGraph encoded = test::encode_graph(*kit.graph({empty, twice}, 5), 0, kit.handle_of());
    const Decoded decoded(encoded);
    EXPECT_EQ(decoded.nodes, (std::vector<uint64_t>{id_of(twice)}));
    EXPECT_FALSE(decoded.by_id.contains(id_of(unread)));
    EXPECT_FALSE(touches(encoded.touched, range_of(*unread)));
    EXPECT_EQ(test::encode_graph(*kit.graph({empty}, 6), 0, kit.handle_of()).n_nodes, 0u);
}

TEST(IsPadded, FalseWithoutElements) {
    GraphKit kit;
    EXPECT_TRUE(is_padded(*ggml_new_tensor_2d(kit.context(), GGML_TYPE_Q8_0, 32, 3)));
    EXPECT_FALSE(is_padded(*ggml_new_tensor_2d(kit.context(), GGML_TYPE_Q8_0, 32, 0)));
    EXPECT_FALSE(is_padded(*ggml_new_tensor_2d(kit.context(), GGML_TYPE_Q8_0, 0, 3)));
}

// An unmarked node that a computed one reads is a leaf: it has an address but no sources.
TEST(EncodeGraph, UnmarkedSourceHasNoSources) {
    GraphKit kit;
    ggml_tensor *a = kit.f32(8), *b = kit.f32(8);
    ggml_tensor * before = kit.place(ggml_scale(kit.context(), a, 2));
    ggml_tensor * sum = kit.place(ggml_add(kit.context(), before, b));
    ggml_cgraph * graph = kit.graph({sum}, 5);
    before->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    const test::EncodedGraph encoded = test::encode_graph(*graph, 0, kit.handle_of());
    const Decoded decoded(encoded);
    EXPECT_EQ(decoded.nodes, (std::vector<uint64_t>{id_of(sum)}));
    ASSERT_TRUE(decoded.by_id.contains(id_of(before)));
    EXPECT_EQ(+decoded.by_id.at(id_of(before)).src[0], 0u);
    EXPECT_FALSE(decoded.by_id.contains(id_of(a)));
    EXPECT_TRUE(touches(encoded.touched, range_of(*before)));
}

TEST(EncodeGraph, TensorOfAnotherServerHasNoAddress) {
    GraphKit kit;
    ggml_tensor *a = kit.f32(8), *elsewhere = kit.f32(8);
    elsewhere->buffer = kit.foreign();
    ggml_tensor * sum = kit.place(ggml_add(kit.context(), a, elsewhere));
    const test::EncodedGraph encoded = test::encode_graph(*kit.graph({sum}, 5), 0, kit.handle_of());
    const Decoded decoded(encoded);
    EXPECT_EQ(+decoded.by_id.at(id_of(elsewhere)).buffer, 0u);
    EXPECT_EQ(+decoded.by_id.at(id_of(elsewhere)).data, 0u);
    EXPECT_FALSE(touches(encoded.touched, range_of(*elsewhere)));
    EXPECT_NE(+decoded.by_id.at(id_of(a)).data, 0u);
}

// Names and padding must not leak this process's memory.
TEST(EncodeGraph, BytesAfterANameAreZero) {
    GraphKit kit;
    ggml_tensor * a = kit.f32(8);
    std::memset(a->name, 'x', sizeof a->name);
    ggml_set_name(a, "ab");
    ggml_tensor * twice = kit.place(ggml_scale(kit.context(), a, 2));
    const Decoded decoded(test::encode_graph(*kit.graph({twice}, 5), 0, kit.handle_of()));
    const wire::Tensor & got = decoded.by_id.at(id_of(a));
    EXPECT_TRUE(std::all_of(got.name + 2, got.name + sizeof got.name, [](char c) { return c == '\0'; }));

    std::memset(a->name, 'x', sizeof a->name);  // not even terminated
    const Decoded long_name(test::encode_graph(*kit.graph({twice}, 6), 0, kit.handle_of()));
    EXPECT_EQ(long_name.by_id.at(id_of(a)).name[63], '\0');
}

TEST(EncodeGraph, NothingToComputeHasNoNodes) {
    GraphKit kit;
    EXPECT_EQ(test::encode_graph(*kit.graph({kit.f32(8)}, 5), 0, kit.handle_of()).n_nodes, 0u);
}

TEST(Footprint, ResultOverwritesUnreadInput) {
    GraphKit kit;
    ggml_tensor * input = kit.f32(8);
    ggml_tensor * doubled = kit.place(ggml_scale(kit.context(), input, 2));
    ggml_tensor * squared = kit.place(ggml_sqr(kit.context(), doubled));
    ggml_tensor * unread = kit.f32(8);
    squared->data = unread->data;  // as ggml's allocator does for inputs that no computed node reads
    const auto encoded = test::encode_graph(*kit.graph({squared}, 1), 0, kit.handle_of());
    EXPECT_TRUE(touches(encoded.touched, range_of(*input)));
    EXPECT_FALSE(touches(encoded.touched, range_of(*unread)));
    EXPECT_TRUE(covers(encoded.overwritten, range_of(*unread)));

    doubled->data = input->data;  // in place: read first
    const auto in_place = test::encode_graph(*kit.graph({squared}, 2), 0, kit.handle_of());
    EXPECT_TRUE(touches(in_place.touched, range_of(*input)));
}

TEST(Footprint, PartialWriteTouches) {
    GraphKit kit;
    ggml_tensor * cache = kit.f32(8, 16);
    ggml_tensor * rows = kit.f32(8, 2);
    ggml_tensor * indices = kit.place(ggml_new_tensor_1d(kit.context(), GGML_TYPE_I64, 2));
    ggml_tensor * changed = kit.place(ggml_set_rows(kit.context(), cache, rows, indices));
    changed->data = cache->data;
    ggml_tensor * half = ggml_view_2d(kit.context(), cache, 4, 16, cache->nb[1], 0);
    half->buffer = kit.ours();
    half->data = cache->data;
    ggml_tensor * copied = kit.place(ggml_cpy(kit.context(), kit.f32(4, 16), half));
    copied->data = half->data;
    for (ggml_tensor * result : {changed, copied}) {
        const auto encoded = test::encode_graph(*kit.graph({result}, 1), 0, kit.handle_of());
        EXPECT_TRUE(touches(encoded.touched, range_of(*cache))) << ggml_op_name(result->op);
        EXPECT_FALSE(touches(encoded.overwritten, range_of(*cache))) << ggml_op_name(result->op);
    }
}

}  // namespace
}  // namespace caravan::client
