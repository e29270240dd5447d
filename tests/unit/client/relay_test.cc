// Copies between two servers through the client.
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <memory>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using test::GraphKit;
using test::Message;
using test::noise;
using wire::Command;

TEST(Relay, DoesNotBlockUntilTheTargetIsRead) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(64), *to = b.kit.f32(64);
    ggml_cgraph * graph = b.doubled(to, 7);
    b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                         encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(graph), GGML_STATUS_SUCCESS);
    const Message read = a.peer.next();
    EXPECT_EQ(read.command, Command::get_tensor);
    EXPECT_EQ(+read.as<wire::GetTensorRequest>().size, 256u);
    EXPECT_EQ(b.peer.unread(), 0u) << "the relayed bytes have not arrived";
    std::vector<std::byte> dest(256);
    const auto ticket = b.get(graph->nodes[0], dest);
    EXPECT_EQ(b.peer.unread(), 0u);

    a.peer.reply_bytes(noise(256));
    b.peer.reply_bytes(noise(256, 2));
    b->await(ticket);
    EXPECT_EQ(dest, noise(256, 2));
    const Message write = b.peer.next();
    EXPECT_EQ(write.command, Command::set_tensor);
    EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(256));
    EXPECT_EQ(+write.as<wire::Tensor>().data, reinterpret_cast<uint64_t>(to->data));
    b.expect_launch(Command::graph_compute, 7);
    EXPECT_EQ(b.peer.next().command, Command::get_tensor);
}

TEST(Relay, SeveralRelaysKeepOrder) {
    Session a, b;
    std::vector<ggml_tensor *> targets;
    constexpr uint32_t count = 5;
    for (uint32_t i = 0; i < count; ++i) {
        ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
        targets.push_back(to);
        a.peer.reply_bytes(noise(32, i));  // before the request
        b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                             encode_region(*to, GraphKit::handle), range_of(*to));
        b.launch(b.doubled(to, 10 + i));
    }
    b->synchronize();
    for (uint32_t i = 0; i < count; ++i) {
        const Message write = b.peer.next();
        EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(32, i));
        EXPECT_EQ(+write.as<wire::Tensor>().data, reinterpret_cast<uint64_t>(targets[i]->data));
        b.expect_launch(Command::graph_compute, 10 + i);
    }
}

TEST(Relay, RoundTripDoesNotDeadlock) {
    Session a, b;
    ggml_tensor *x = a.kit.f32(8), *y = b.kit.f32(8), *z = a.kit.f32(8);
    const auto wired = [](const ggml_tensor * tensor) { return encode_region(*tensor, GraphKit::handle); };
    b->transfers().relay(**a.connection, wired(x), range_of(*x), wired(y), range_of(*y));
    a->transfers().relay(**b.connection, wired(y), range_of(*y), wired(z), range_of(*z));
    a.peer.reply_bytes(noise(32, 1));
    b.peer.reply_bytes(noise(32, 2));
    a->synchronize();
    b->synchronize();
    EXPECT_EQ(a.peer.next().command, Command::get_tensor);
    EXPECT_EQ(a.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 2));
    EXPECT_EQ(b.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 1));
    EXPECT_EQ(b.peer.next().command, Command::get_tensor);
}

TEST(Relay, FromLostServerDoesNotHang) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                         encode_region(*to, GraphKit::handle), range_of(*to));
    a.peer.close();
    b->synchronize();
    EXPECT_TRUE(a->failed());
    EXPECT_FALSE(b->failed());
}

TEST(Relay, ToLostServerDoesNotHang) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b.peer.close();
    for (uint32_t i = 0; i < 3; ++i) {
        a.peer.reply_bytes(noise(32, i));
        b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                             encode_region(*to, GraphKit::handle), range_of(*to));
        b.launch(b.doubled(to, 10 + i));
        b->synchronize();
    }
    a->synchronize();
    EXPECT_FALSE(a->failed());
    EXPECT_FALSE(b->queries().device_count());
    EXPECT_EQ(b.launch(b.doubled(to, 50)), GGML_STATUS_FAILED);
}

// A program may exit while a pipeline is running.
TEST(Relay, SessionMayCloseWithRelayPending) {
    Session a;
    std::weak_ptr<Connection> gone;
    {
        Session b;
        ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
        a.peer.reply_bytes(noise(32));
        b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                             encode_region(*to, GraphKit::handle), range_of(*to));
        gone = *b.connection;
    }
    EXPECT_TRUE(gone.expired());
    a.peer.reply(uint32_t{1});
    EXPECT_TRUE(a->queries().device_count());
}

}  // namespace
}  // namespace caravan::client
