#include "server/session/graph_store.h"

#include <gtest/gtest.h>

#include "support/session_client.h"
#include "support/session_parts.h"

namespace caravan::server {
namespace {

// c = a + b, at the begin of the buffer.
Graph build_sum(SessionContext & context, uint64_t buffer) {
    std::vector<wire::GraphTensor> tensors{test::NativeClient::tensor(buffer), test::NativeClient::tensor(buffer + 64),
                                           test::NativeClient::tensor(buffer + 128)};
    tensors[2].op = GGML_OP_ADD;
    tensors[2].is_node = 1;
    tensors[2].flags = GGML_TENSOR_FLAG_COMPUTE;
    tensors[2].src[0] = 1;
    tensors[2].src[1] = 2;
    auto built = build_graph(describe_graph(std::move(tensors)), test::cpu_devices().device(0), context.buffers);
    EXPECT_TRUE(built) << built.error().text;
    return std::move(*built);
}

// A store that has room for two graphs.
struct GraphStoreTest : testing::Test {
    static uint64_t graph_bytes() {
        test::SessionParts probe;
        return build_sum(probe.context, probe.buffer).bytes();
    }
    StoredGraph & add(uint64_t id) {
        auto claimed = store.claim(0, build_sum(session.context, session.buffer));
        EXPECT_TRUE(claimed) << claimed.error().text;
        return store.insert(0, id, std::move(*claimed));
    }

    test::SessionParts session{64 * 1024 + 2 * graph_bytes() + graph_bytes() / 2};
    int waits = 0;
    Result<> wait_result;
    GraphStore store{session.context, 1, [this](uint32_t) { return ++waits, wait_result; }};
};

TEST_F(GraphStoreTest, EvictsTheGraphThatWasLaunchedLongestAgo) {
    add(1);
    add(2);
    ASSERT_TRUE(store.launch(*store.find(0, 2)));
    ASSERT_TRUE(store.launch(*store.find(0, 1)));
    EXPECT_FALSE(store.has_evicted());
    add(3);
    EXPECT_TRUE(store.has_evicted());
    EXPECT_EQ(waits, 1) << "the graph may be running";
    EXPECT_NE(store.find(0, 1), nullptr);
    EXPECT_EQ(store.find(0, 2), nullptr);
    EXPECT_NE(store.find(0, 3), nullptr);
    ASSERT_TRUE(session.context.synchronize());
}

TEST_F(GraphStoreTest, SparesTheGraphInUse) {
    add(1);
    StoredGraph & in_use = add(2);
    ASSERT_TRUE(store.evict(graph_bytes(), &in_use));
    EXPECT_EQ(store.find(0, 1), nullptr);
    const auto evicted = store.evict(2 * graph_bytes(), &in_use);
    ASSERT_FALSE(evicted);
    EXPECT_EQ(evicted.error().code, Errc::no_memory);
    EXPECT_EQ(store.find(0, 2), &in_use);
}

TEST_F(GraphStoreTest, KeepsAGraphWhoseComputationFailed) {
    add(1);
    add(2);
    wait_result = fail(Errc::unavailable, "a launch failed");
    const auto claimed = store.claim(0, build_sum(session.context, session.buffer));
    ASSERT_FALSE(claimed);
    EXPECT_EQ(claimed.error().text, "a launch failed");
    EXPECT_EQ(store.count(0), 2u);
}

TEST_F(GraphStoreTest, DropsTheGraphsOfAFreedBuffer) {
    add(1);
    store.drop_using(session.buffer + (uint64_t{1} << offset_bits));
    EXPECT_EQ(store.count(0), 1u);
    const uint64_t claimed = session.context.memory.host_bytes();
    store.drop_using(session.buffer);
    EXPECT_EQ(store.count(0), 0u);
    EXPECT_LT(session.context.memory.host_bytes(), claimed) << "its memory is available again";
}

}  // namespace
}  // namespace caravan::server
