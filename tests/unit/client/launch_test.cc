// When launches are sent, which reads are sent with them, and when they return. Stock dialect; the test plays the server.
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "support/encoded_graph.h"
#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using test::GraphKit;
using test::Message;
using test::noise;
using wire::Command;

TEST(Launch, SendsTheGraphOnceThenItsUid) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(session.launch(graph, 2), GGML_STATUS_SUCCESS);
        const Message message = session.peer.next();
        EXPECT_EQ(message.command, i == 0 ? Command::graph_compute : Command::graph_recompute);
        EXPECT_EQ(message.as<uint32_t>(0), 2u);
        EXPECT_EQ(message.as<uint64_t>(4), 31u);
        if (i == 0) {
            EXPECT_EQ(message.payload, test::encode_graph(*graph, 2, session.kit.handle_of()).payload);
        }
    }
}

TEST(Launch, GraphsAreStoredPerDevice) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    session.launch(graph, 0);
    session.launch(graph, 1);
    session.launch(graph, 0);
    session.expect_launch(Command::graph_compute, 31);
    session.expect_launch(Command::graph_compute, 31);
    session.expect_launch(Command::graph_recompute, 31);
}

TEST(Launch, GraphWithoutUidIsSentEveryTime) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 0);
    for (int i = 0; i < 3; ++i) {
        session.launch(graph);
        session.expect_launch(Command::graph_compute, 0);
    }
}

TEST(Launch, GraphIsSentAgainAfterABufferIsFreed) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    session.launch(graph);
    session.launch(graph);
    session->buffers().free({.handle = 99, .base = 0x9999'0000'0000'0000, .size = 64});
    session.launch(graph);
    session.launch(graph);
    session.expect_launch(Command::graph_compute, 31);
    session.expect_launch(Command::graph_recompute, 31);
    const Message freed = session.peer.next();
    EXPECT_EQ(freed.command, Command::free_buffer);
    EXPECT_EQ(freed.as<uint64_t>(), 99u);
    session.expect_launch(Command::graph_compute, 31);
    session.expect_launch(Command::graph_recompute, 31);
}

// A stock server stores 1024 graphs per device; the next new one clears all.
TEST(Launch, Graph1025ClearsAllOthers) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 1);
    const auto launched_as = [&](uint64_t uid) {
        graph->uid = uid;
        session.launch(graph);
        const Message message = session.peer.next();
        EXPECT_EQ(message.as<uint64_t>(4), uid);
        return message.command;
    };
    for (uint64_t uid = 1; uid <= 1024; ++uid) {
        ASSERT_EQ(launched_as(uid), Command::graph_compute) << uid;
    }
    EXPECT_EQ(launched_as(1), Command::graph_recompute);
    EXPECT_EQ(launched_as(1024), Command::graph_recompute);
    EXPECT_EQ(launched_as(0), Command::graph_compute) << "not stored, so it clears nothing";
    EXPECT_EQ(launched_as(2), Command::graph_recompute);
    EXPECT_EQ(launched_as(1025), Command::graph_compute);
    EXPECT_EQ(launched_as(1025), Command::graph_recompute);
    EXPECT_EQ(launched_as(1), Command::graph_compute);
    EXPECT_EQ(launched_as(1024), Command::graph_compute);
}

TEST(Launch, GraphWithoutMarkedNodesIsNotLaunched) {
    Session session;
    ggml_tensor * twice = session.kit.place(ggml_scale(session.kit.context(), session.kit.f32(8), 2));
    ggml_cgraph * graph = session.kit.graph({twice}, 31);
    twice->flags = 0;
    EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::device_count);
}

TEST(Launch, FirstLaunchIsSentImmediately) {
    Session session;
    ggml_tensor * source = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(source, 31);
    session.set(source, noise(32));
    EXPECT_EQ(session.peer.unread(), 0u) << "inputs stay in the batch until the launch";
    session.launch(graph);
    EXPECT_EQ(session.peer.next().command, Command::set_tensor);
    session.expect_launch(Command::graph_compute, 31);
}

// Relays the result of a's launch to b.
void relay_result(Session & a, Session & b, const ggml_tensor * result) {
    ggml_tensor * to = b.kit.f32(8);
    b->transfers().relay(**a.connection, encode_region(*result, GraphKit::handle), range_of(*result),
                         encode_region(*to, GraphKit::handle), range_of(*to));
}

// Launches and relays immediately, until a launch is held back for the relay's read. Whether a read is immediate depends on
// the clock, so a busy machine may need several rounds. False if no launch was held.
bool learn_hold(Session & a, Session & b, ggml_cgraph * graph) {
    for (int round = 0; round < 200; ++round) {
        a.launch(graph);
        if (a.peer.unread() == 0) {
            return true;
        }
        relay_result(a, b, graph->nodes[0]);
        a.peer.next();
        EXPECT_EQ(a.peer.next().command, Command::get_tensor);
        a.peer.reply_bytes(noise(32));
        b->synchronize();
        EXPECT_EQ(b.peer.next().command, Command::set_tensor);
    }
    return false;
}

TEST(Launch, HeldLaunchIsSentWithTheRelaysRead) {
    Session session, target;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ASSERT_TRUE(learn_hold(session, target, graph));
    relay_result(session, target, graph->nodes[0]);
    session.expect_launch(Command::graph_recompute, 31);
    EXPECT_EQ(session.peer.next().command, Command::get_tensor);
    session.peer.reply_bytes(noise(32, 9));
    target->synchronize();
    EXPECT_EQ(target.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 9));
}

// A program that launches, reads the result immediately and awaits it.
class ImmediateReader {
public:
    // `before_read`: what it does between the launch and the read.
    explicit ImmediateReader(Session & session, ggml_cgraph * graph, std::function<void()> before_read = [] {})
        : session_(session), graph_(graph), before_read_(std::move(before_read)) {}

    // One token: launch, read, await. True if the read was sent before the program requested it.
    bool round() {
        std::vector<std::byte> dest(32);
        bool prefetched = false;
        std::jthread server([&] {
            session_.peer.next();
            EXPECT_EQ(session_.peer.next().command, Command::get_tensor);
            prefetched = !is_read_;
            session_.peer.reply_bytes(noise(32, ++answers_));
        });
        EXPECT_EQ(session_.launch(graph_), GGML_STATUS_SUCCESS);
        before_read_();
        is_read_ = true;
        session_->await(session_.get(graph_->nodes[0], dest));
        server.join();
        is_read_ = false;
        EXPECT_EQ(dest, noise(32, answers_));
        return prefetched;
    }
    // Runs rounds until a launch is sent together with its read. False if none was.
    bool learn() {
        for (int i = 0; i < 200; ++i) {
            if (round()) {
                return true;
            }
        }
        return false;
    }

private:
    Session & session_;
    ggml_cgraph * graph_;
    std::function<void()> before_read_;
    std::atomic<bool> is_read_ = false;
    uint32_t answers_ = 0;
};

TEST(Launch, ConfirmedLaunchPrefetchesAndReturnsWithTheResult) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ImmediateReader token(session, graph);
    ASSERT_TRUE(token.learn());
    EXPECT_TRUE(token.round()) << "and again";
}

// A program that has devices of several servers reads from one after the other.
TEST(Launch, ReadThatFollowsAWaitForAnotherServerIsImmediate) {
    Session session, other;
    ImmediateReader token(session, session.doubled(session.kit.f32(8), 31), [&] {
        std::jthread server([&] {
            std::this_thread::sleep_for(2 * LaunchPrediction::immediate_read_limit);
            other.peer.reply(uint32_t{1});
        });
        EXPECT_TRUE(other->queries().device_count());
    });
    EXPECT_TRUE(token.learn());
}

TEST(Launch, FailsIfTheServerIsLostBeforeThePrefetchedResult) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ASSERT_TRUE(ImmediateReader(session, graph).learn());
    std::jthread server([&] {
        session.peer.next();
        session.peer.next();
        session.peer.close();
    });
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
    std::vector<std::byte> dest(32);
    session->await(session.get(graph->nodes[0], dest));
    EXPECT_EQ(dest, std::vector<std::byte>(32, std::byte{0xff}));
}

TEST(Launch, OtherReadThanThePrefetchedOneGetsItsOwnBytes) {
    using Read = std::function<void(Session &, ggml_tensor * result, ggml_tensor * other, std::vector<std::byte> & dest)>;
    const std::pair<const char *, Read> reads[] = {
        {"another tensor", [](auto & session, auto *, auto * other, auto & dest) { session->await(session.get(other, dest)); }},
        {"after a wait", [](auto & session, auto * result, auto *, auto & dest) {
             session->synchronize();
             session->await(session.get(result, dest));
         }},
        {"after a wait for an event", [](auto & session, auto *, auto * other, auto & dest) {
             session->await(session->last_ticket());
             session->await(session.get(other, dest));
         }},
        {"after a write", [](auto & session, auto *, auto * other, auto & dest) {
             session.set(other, noise(32));
             session->await(session.get(other, dest));
         }},
    };
    for (const auto & [name, read] : reads) {
        SCOPED_TRACE(name);
        Session session;
        ggml_tensor * other = session.kit.f32(8);
        ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
        ASSERT_TRUE(ImmediateReader(session, graph).learn());
        std::jthread server([&] {
            session.peer.next();
            session.peer.next();
            session.peer.reply_bytes(noise(32, 1000));
            Message message = session.peer.next();
            message = message.command == Command::set_tensor ? session.peer.next() : message;
            EXPECT_EQ(message.command, Command::get_tensor);
            session.peer.reply_bytes(noise(32, 1001));
        });
        EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
        std::vector<std::byte> dest(32);
        read(session, graph->nodes[0], other, dest);
        EXPECT_EQ(dest, noise(32, 1001));
    }
}

TEST(Launch, EventBeforeTheReadKeepsThePrefetch) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ASSERT_TRUE(ImmediateReader(session, graph).learn());
    std::jthread server([&] {
        session.peer.next();
        session.peer.next();
        session.peer.reply_bytes(noise(32, 7));
    });
    EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
    session->await(session->last_ticket());
    std::vector<std::byte> dest(32);
    session->await(session.get(graph->nodes[0], dest));
    EXPECT_EQ(dest, noise(32, 7));
}

// A program with several batches in flight launches the next one before it awaits the last result.
TEST(Launch, LaunchDoesNotWaitForUnawaitedResults) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ASSERT_TRUE(ImmediateReader(session, graph).learn());
    std::vector<std::byte> dest(32);
    session.peer.reply_bytes(noise(32));
    session.launch(graph);
    const auto first = session.get(graph->nodes[0], dest);
    session.launch(graph);  // returns without a reply
    const auto second = session.get(graph->nodes[0], dest);
    session.peer.reply_bytes(noise(32, 2));
    session->await(first);
    session->await(second);
    EXPECT_EQ(dest, noise(32, 2));
}

TEST(Launch, FirstLaunchOfGraphWithOutputReturnsWhenComputed) {
    Session session;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    graph->nodes[0]->flags |= GGML_TENSOR_FLAG_OUTPUT;
    std::jthread server([&] {
        session.expect_launch(Command::graph_compute, 31);
        EXPECT_EQ(session.peer.next().command, Command::get_tensor);
        session.peer.close();
    });
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
}

TEST(Launch, ManyNewGraphsWithShortStepsAreNotConfirmed) {
    Session session;
    std::atomic<int> confirmed = 0;
    const int graphs = 30;
    std::jthread server([&] {
        for (int launches = 0; launches < graphs;) {
            if (session.peer.next().command == Command::get_tensor) {
                ++confirmed;
                session.peer.reply_bytes(noise(16));
            } else {
                ++launches;
            }
        }
    });
    for (uint64_t uid = 1; uid <= graphs; ++uid) {
        ggml_cgraph * graph = session.doubled(session.kit.f32(8), uid);
        graph->nodes[0]->flags |= GGML_TENSOR_FLAG_OUTPUT;
        EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
    }
    server.join();
    EXPECT_GE(confirmed, 8);
    EXPECT_LT(confirmed, graphs);
}

TEST(Launch, HeldLaunchIsSentBeforeAnyOtherCommand) {
    const std::pair<const char *, std::function<void(Session &)>> others[] = {
        {"synchronize", [](Session & session) { session->synchronize(); }},
        {"set", [](Session & session) { session.set(session.kit.f32(8), noise(32)); }},
        {"clear", [](Session & session) { session->buffers().clear({GraphKit::handle, GraphKit::handle, 1 << 20}, 0); }},
        {"free", [](Session & session) { session->buffers().free({GraphKit::handle, GraphKit::handle, 1 << 20}); }},
        {"memset", [](Session & session) { session->data().memset(wire::Tensor{}, {1, 2}, 0, 1, 7); }},
        {"init", [](Session & session) { session->data().init_tensor(wire::Tensor{}); }},
        {"query", [](Session & session) { session.peer.reply(uint32_t{1}); EXPECT_TRUE(session->queries().device_count()); }},
        {"launch", [](Session & session) { session.launch(session.doubled(session.kit.f32(8), 32)); }},
    };
    for (const auto & [name, other] : others) {
        SCOPED_TRACE(name);
        Session session, target;
        ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
        ASSERT_TRUE(learn_hold(session, target, graph));
        other(session);
        ASSERT_GT(session.peer.unread(), 0u);
        session.expect_launch(Command::graph_recompute, 31);
    }
}

TEST(Launch, LaunchIsNotHeldAgainAfterAMisprediction) {
    Session session, target;
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    ASSERT_TRUE(learn_hold(session, target, graph));
    session->synchronize();
    session.expect_launch(Command::graph_recompute, 31);
    session.launch(graph);
    session.expect_launch(Command::graph_recompute, 31);
}

}  // namespace
}  // namespace caravan::client
