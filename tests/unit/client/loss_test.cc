// Lost servers: which launches fail, and which data is absent.
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using scripted::command_names;
using scripted::native_hello;
using test::GraphKit;
using test::Message;
using test::noise;
using test::operator+;
using wire::Command;

const std::vector<std::byte> absent(32, std::byte{0xff});

TEST(Loss, DuringReplyReadsAsNanAndLaunchesFail) {
    Session session;
    ggml_tensor * tensor = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(tensor, 31);
    std::vector<std::byte> dest(32, std::byte{7}), more(32, std::byte{7});
    const auto ticket = session.get(tensor, dest);
    session.peer.send(test::bytes_of(uint64_t{32}) + noise(10));
    session.peer.close();
    session->await(ticket);
    EXPECT_EQ(dest, absent);
    EXPECT_TRUE(session->failed());

    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
    session->await(session.get(tensor, more));
    EXPECT_EQ(more, absent);
    session.set(tensor, noise(32));
    session.set(tensor, noise(1 << 20));
    session->data().memset(encode_region(*tensor, GraphKit::handle), range_of(*tensor), 0, 32, 1);
    session->data().set_2d(encode_region(*tensor, GraphKit::handle), range_of(*tensor), 0, 4, 2, 8, noise(16).data(), 4);
    session->buffers().clear({1, 2, 3}, 0);
    session->buffers().free({1, 2, 3});
    session->synchronize();
    EXPECT_FALSE(session->queries().device_count());
    EXPECT_FALSE(session->queries().memory(0));
    EXPECT_FALSE(session->buffers().alloc(0, 10));
}

// Longer than the interval in which the connection is not checked again.
void pass_time() { std::this_thread::sleep_for(milliseconds(3)); }

// Nothing was sent or requested since the loss: only a check of the connection detects it.
TEST(Loss, WhileIdleFailsTheNextLaunch) {
    Session session;
    ggml_tensor * tensor = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(tensor, 31);
    std::vector<std::byte> dest(32);
    for (int i = 0; i < 3; ++i) {
        session.peer.reply_bytes(noise(32));
        EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
        session->await(session.get(tensor, dest));
    }
    session.peer.close();
    pass_time();
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
}

// A machine that was switched off closes no connection.
TEST(Loss, IdleServerIsProbedBeforeALaunch) {
    Session session(scripted::good_hello, {.idle_before_probe = milliseconds(20)});
    ggml_tensor * tensor = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(tensor, 31);
    EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
    session.expect_launch(Command::graph_compute, 31);
    std::this_thread::sleep_for(milliseconds(30));
    std::jthread server([&] {
        EXPECT_EQ(session.peer.next().command, Command::device_count);
        session.peer.close();
    });
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
}

TEST(Loss, OfRelaySourceFailsNextLaunchOfTarget) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8), *other = b.kit.f32(8);
    const auto relay = [&] {
        b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                             encode_region(*to, GraphKit::handle), range_of(*to));
    };
    a.peer.close();
    std::vector<std::byte> dest(32);
    a->await(a.get(from, dest));
    ASSERT_TRUE(a->failed());
    relay();
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_FAILED);
    EXPECT_EQ(b.launch(b.doubled(other, 11)), GGML_STATUS_SUCCESS) << "it does not read the missing data";
    b->await(b.get(to, dest));
    EXPECT_EQ(dest, absent) << "the server's data is stale";
    b.set(to, noise(32));
    EXPECT_EQ(b.launch(b.doubled(to, 12)), GGML_STATUS_SUCCESS) << "it was overwritten";
}

// The launch behind the relay was reported as successful before the source was lost: its results are NaN.
TEST(Loss, OfPendingRelaySourceMakesResultsAbsentAndFailsNextLaunch) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                         encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_SUCCESS);
    a.peer.close();
    std::vector<std::byte> dest(32);
    b.peer.reply_bytes(noise(32));
    b->await(b.get(to, dest));
    EXPECT_EQ(dest, absent);
    EXPECT_EQ(b.launch(b.doubled(to, 11)), GGML_STATUS_FAILED);
}

// Through the program's memory: by ggml's copy between devices, or by a state file.
TEST(Loss, LaunchThatReadsWrittenAbsentDataFails) {
    Session session;
    ggml_tensor *tensor = session.kit.f32(16), *mask = session.kit.f32(8);
    session.set(tensor, absent);  // the first half
    EXPECT_EQ(session.launch(session.doubled(tensor, 10)), GGML_STATUS_FAILED);
    EXPECT_EQ(session.launch(session.doubled(tensor, 10)), GGML_STATUS_FAILED) << "the data is still absent";
    session->buffers().clear({GraphKit::handle, reinterpret_cast<uint64_t>(tensor->data), 1 << 20}, 0);
    EXPECT_EQ(session.launch(session.doubled(tensor, 11)), GGML_STATUS_SUCCESS);
    const std::vector<float> minus_infinity(8, -INFINITY);
    session.set(mask, const_bytes(minus_infinity.data(), 32));
    EXPECT_EQ(session.launch(session.doubled(mask, 12)), GGML_STATUS_SUCCESS);
    ggml_tensor * rows = session.kit.place(ggml_new_tensor_1d(session.kit.context(), GGML_TYPE_I32, 8));
    session.set(rows, absent);
    ggml_tensor * taken = ggml_get_rows(session.kit.context(), session.kit.f32(8, 8), rows);
    EXPECT_EQ(session.launch(session.kit.graph({session.kit.place(taken)}, 13)), GGML_STATUS_SUCCESS)
        << "-1 is a valid integer";
    ggml_tensor * weight = session.kit.f32(8);
    session.set(weight, absent, true);
    EXPECT_EQ(session.launch(session.doubled(weight, 14)), GGML_STATUS_SUCCESS) << "a model file may contain any bytes";
}

TEST(Loss, AbsentDataIsTrackedThroughCopiesUntilOverwritten) {
    Session session;
    uint64_t uid = 20;
    const auto launch = [&](ggml_tensor * source) { return session.launch(session.doubled(source, ++uid)); };
    const auto wired = [](const ggml_tensor * tensor) { return encode_region(*tensor, GraphKit::handle); };
    ggml_tensor *tensor = session.kit.f32(8), *copied = session.kit.f32(8), *rows = session.kit.f32(4, 2);
    session.set(tensor, absent);
    session.peer.reply(uint8_t{1});
    EXPECT_TRUE(session->data().copy(wired(tensor), range_of(*tensor), wired(copied), range_of(*copied)));
    EXPECT_EQ(launch(copied), GGML_STATUS_FAILED);
    std::vector<std::byte> dest(32);
    session->data().get_2d(wired(copied), range_of(*copied), 0, 16, 2, 16, dest);
    EXPECT_EQ(dest, absent) << "no request is sent";
    session->data().memset(wired(copied), range_of(*copied), 0, 32, 0);
    EXPECT_EQ(launch(copied), GGML_STATUS_SUCCESS);
    session->data().set_2d(wired(rows), range_of(*rows), 0, 16, 2, 16, absent.data(), 16);
    EXPECT_EQ(launch(rows), GGML_STATUS_FAILED);
    session->buffers().free({GraphKit::handle, reinterpret_cast<uint64_t>(tensor->data), 1 << 20});
    EXPECT_EQ(launch(rows), GGML_STATUS_SUCCESS) << "another buffer may have this address now";
}

// The source's connection is reset: the read fails before the target's launch is reported as successful.
TEST(Loss, OfRelaySourceDuringReadFailsNextLaunchOfTarget) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    a.flush();
    a.peer.close();  // with unread data, which resets the connection
    b->transfers().relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                         encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_FAILED);
}

TEST(Loss, ReplyOfWrongSizeEndsSession) {
    Session session;
    session.peer.reply(uint64_t{1});  // a device count has four bytes
    const auto count = session->queries().device_count();
    ASSERT_FALSE(count);
    EXPECT_EQ(count.error().code, Errc::protocol);
    EXPECT_TRUE(session->failed());
}

// Two native servers. `b` receives from `a` over a link.
struct Linked {
    void transfer() {
        b.peer.reply(++token);
        a.peer.reply(uint8_t{0});  // over TCP
        b->transfers().transfer(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                                encode_region(*to, GraphKit::handle), range_of(*to));
    }
    // b reports a failed launch before its next reply.
    void fail_and_read() {
        b.peer.send(test::bytes_of(uint64_t{4} | uint64_t{static_cast<uint8_t>(wire::ReplyKind::launch_failed)}
                                                     << wire::reply_kind_shift) +
                    test::bytes_of(std::string_view("link")));
        read();
    }
    void read() {
        std::vector<std::byte> dest(32);
        b.peer.reply_bytes(noise(32));
        b->await(b.get(to, dest));
        EXPECT_EQ(dest, absent);
    }
    ggml_status launch() { return b.launch(b.doubled(to, token)); }
    // Closes the session and returns the names of the commands that its server received.
    static std::string sent_to(Session & session) {
        session.connection = fail(Errc::io, "closed");
        std::vector<Message> all;
        while (auto message = session.peer.next_or_end()) {
            all.push_back(std::move(*message));
        }
        return command_names(all);
    }

    Session a{native_hello()}, b{native_hello()};
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    uint64_t token = 5;
};

TEST(Loss, AbsentDataIsNotPushed) {
    Linked servers;
    servers.a.set(servers.from, absent);
    servers.transfer();
    EXPECT_EQ(servers.launch(), GGML_STATUS_FAILED);
    EXPECT_EQ(servers.sent_to(servers.b), "INVITE ") << "no TAKE without a PUSH";
    EXPECT_FALSE(servers.sent_to(servers.a).contains("PUSH"));
}

// The server at the other end of a link may be lost, which nothing else would detect: each failure probes it once, and later
// transfers make new links.
TEST(Loss, LinkSourceIsProbedWhenALaunchFails) {
    Linked servers;
    servers.transfer();
    servers.a.peer.reply(uint32_t{1});
    servers.fail_and_read();  // probes
    servers.read();           // does not probe again
    servers.a.peer.reply(uint32_t{1});
    EXPECT_EQ(servers.launch(), GGML_STATUS_FAILED);  // probes
    servers.transfer();
    servers.a.peer.reply(uint32_t{1});
    servers.fail_and_read();  // probes: this is another failure
    EXPECT_FALSE(servers.b->failed()) << "a server may report the failure of a TAKE";
    EXPECT_EQ(servers.sent_to(servers.a), "CONNECT DECLARE PUSH DEVICE_COUNT DEVICE_COUNT CONNECT PUSH DEVICE_COUNT ");
    EXPECT_EQ(servers.sent_to(servers.b), "INVITE DECLARE TAKE READ READ INVITE TAKE READ ");
}

}  // namespace
}  // namespace caravan::client
