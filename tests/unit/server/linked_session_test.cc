// What a session sends to another server, and when it must not.
#include <gtest/gtest.h>

#include <future>
#include <optional>

#include "net/server_handshake.h"
#include "support/fake_gpu.h"
#include "support/scripted_server.h"
#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::NativeClient;
using test::WirePeer;
using test::as_floats;
using test::bytes_of;
using test::two_cpu_devices;
using test::operator+;

// A session with two devices and a link to another server. `first`, `second` and their `sum` are in the first device's buffer,
// `copied` and `doubled` in the second's.
struct LinkedSession {
    static constexpr uint16_t first = 0, second = 1, sum = 2, copied = 3, doubled = 4;

    explicit LinkedSession(Devices opened = two_cpu_devices()) : devices(std::move(opened)) {
        client.declare(first, client.buffer);
        client.declare(second, client.buffer + 64);
        client.declare(sum, client.buffer + 128);
        client.declare(copied, on_second_device);
        client.declare(doubled, on_second_device + 64);
        client.write(first, {1, 2, 3, 4});
        client.write(second, {10, 20, 30, 40});
        const std::string endpoint = server.endpoint().text();
        client.post(wire::NativeCommand::connect, wire::ConnectRequest{0, 1}, bytes_of(std::string_view(endpoint)));
        EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0);
        other = linked.get_future().get();
    }
    void copy() { client.post(wire::NativeCommand::copy, wire::CopyRequest{sum, copied}); }
    void launch_refused() {
        client.graph(0, client.sum(GGML_OP_COUNT));
        EXPECT_EQ(client.receive_text().first, wire::ReplyKind::launch_failed);
    }
    // On the second device.
    std::vector<wire::GraphTensor> doubling() {
        std::vector<wire::GraphTensor> out{NativeClient::tensor(on_second_device), NativeClient::tensor(on_second_device + 64)};
        out[1].op = GGML_OP_ADD;
        out[1].is_node = 1;
        out[1].flags = GGML_TENSOR_FLAG_COMPUTE;
        out[1].src[0] = out[1].src[1] = 1;
        return out;
    }
    // Returns what PUSH sends to the other server, or nullopt for push_absent.
    std::optional<std::vector<float>> push(uint16_t slot) {
        client.post(wire::NativeCommand::push, wire::PushRequest{0, slot});
        wire::PushHeader header{};
        EXPECT_TRUE(other->receive(mutable_bytes(&header, sizeof header)));
        return header.size == wire::push_absent ? std::nullopt : std::optional(as_floats(other->receive(header.size)));
    }

    std::promise<WirePeer *> linked;
    test::ScriptedServer server{[this](WirePeer & peer, wire::Command) {
                                    peer.send(net::link_reply);
                                    linked.set_value(&peer);
                                },
                                [](size_t) { return wire::Extension{.features = wire::feature_native}; }};
    Links links{[](uint64_t) { return true; }, seconds(0)};
    Devices devices;
    NativeClient client{devices, MemoryBudget::no_limit, nullptr, &links};
    const uint64_t on_second_device = client.alloc(4096, 1);
    WirePeer * other = nullptr;
};

const std::vector<float> sums{11, 22, 33, 44};

TEST(LinkedSession, SendsResults) {
    LinkedSession session;
    session.client.graph(0, session.client.sum());
    EXPECT_EQ(session.push(session.sum), sums);
    session.copy();
    EXPECT_EQ(session.push(session.copied), sums);
    session.client.graph(1, session.doubling(), wire::no_base, {}, 1);
    EXPECT_EQ(session.push(session.doubled), (std::vector<float>{22, 44, 66, 88}));
}

TEST(LinkedSession, SendsResultsOfAGpuAfterOneWait) {
    LinkedSession session(test::open_with_gpu({"GPU0", "CPU"}));
    session.client.graph(0, session.client.sum());
    EXPECT_EQ(session.push(session.sum), sums);
    test::fake_gpu().waits = 0;
    session.client.post(wire::NativeCommand::launch, wire::LaunchRequest{0});
    EXPECT_EQ(session.push(session.sum), sums);
    EXPECT_EQ(test::fake_gpu().waits, 1);
}

TEST(LinkedSession, DoesNotSendCopyOfStaleResult) {
    LinkedSession session;
    session.launch_refused();
    session.copy();
    EXPECT_EQ(session.push(session.copied), std::nullopt);
    session.client.graph(0, session.client.sum());
    session.copy();
    EXPECT_EQ(session.push(session.copied), sums) << "a successful launch refreshes the result";
}

TEST(LinkedSession, DoesNotComputeFromStaleResult) {
    LinkedSession session;
    session.launch_refused();
    session.copy();
    session.client.graph(1, session.doubling(), wire::no_base, {}, 1);
    EXPECT_EQ(session.client.receive_text().first, wire::ReplyKind::launch_failed);
    EXPECT_EQ(session.push(session.doubled), std::nullopt);
    session.client.write(session.copied, {1, 1, 1, 1});
    session.client.post(wire::NativeCommand::launch, wire::LaunchRequest{1});
    EXPECT_EQ(session.push(session.doubled), (std::vector<float>{2, 2, 2, 2})) << "the input was rewritten";
}

TEST(LinkedSession, LaterLaunchDoesNotRefreshStaleInput) {
    LinkedSession session;
    session.launch_refused();
    auto next = session.client.sum();
    next[0] = NativeClient::tensor(session.client.buffer + 128);
    next[2].address = session.client.buffer + 192;
    session.client.declare(session.sum, session.client.buffer + 192);
    session.client.graph(1, next);
    EXPECT_EQ(session.client.receive_text().first, wire::ReplyKind::launch_failed);
    EXPECT_EQ(session.push(session.sum), std::nullopt);
}

// With several devices a launch runs while commands are read, so a later command detects the failure.
TEST(LinkedSession, DoesNotSendCopyOfFailedDevicesResult) {
    LinkedSession session;
    session.devices.abort_computation();
    session.client.graph(0, session.client.sum());
    session.copy();
    EXPECT_EQ(session.client.receive_text().first, wire::ReplyKind::launch_failed);
    EXPECT_EQ(session.push(session.copied), std::nullopt);
    EXPECT_EQ(session.push(session.sum), std::nullopt);
}

// Such as a KV cache, whose contents are mostly older than the launch.
TEST(LinkedSession, ViewsWrittenByFailedLaunchStayValid) {
    LinkedSession session;
    auto writing = session.client.sum(GGML_OP_COUNT);
    writing[2].view_src = 1;
    writing[2].address = session.client.buffer;
    session.client.graph(0, writing);
    EXPECT_EQ(session.client.receive_text().first, wire::ReplyKind::launch_failed);
    session.client.graph(1, session.client.sum());
    EXPECT_EQ(session.push(session.sum), sums);
}

// A session that waits for another server is idle, too.
TEST(LinkedSession, EndsWhenItWaitsForAnotherServerForTooLong) {
    for (const bool takes : {true, false}) {
        Links links([](uint64_t) { return true; }, seconds(0));
        NativeClient client(test::cpu_devices(), MemoryBudget::no_limit, nullptr, &links);
        client.declare(0, client.buffer);
        client.peer.request(static_cast<wire::Command>(wire::NativeCommand::invite));
        const auto token = client.peer.receive_reply_as<uint64_t>();
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        ASSERT_TRUE(links.claim(token));
        links.accept(token, *net::make_socket_transport(std::move(pair.near)), false);
        if (takes) {
            client.post(wire::NativeCommand::take, wire::TakeRequest{token, 0});
        } else {
            client.post(wire::NativeCommand::group, wire::GroupRequest{0, 0, 2, UINT16_MAX},
                        bytes_of(wire::GroupPeer{}) + bytes_of(wire::GroupPeer{token, 0}));
            EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1);
            client.post(wire::NativeCommand::reduce, wire::ReduceRequest{0, 0, wire::Precision::f32}, bytes_of(uint16_t{0}));
        }
        client.limit_silence(seconds(1));
        const auto text = client.receive_text();
        EXPECT_EQ(text.first, wire::ReplyKind::ended);
        EXPECT_EQ(text.second, (takes ? std::string("TAKE") : std::string("REDUCE")) +
                                   ": idle for 1 s while other clients wait for a session");
    }
}

}  // namespace
}  // namespace caravan::server
