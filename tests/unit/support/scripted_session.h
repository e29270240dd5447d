// A session of the client with a server that the test plays. For tests of src/client.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/formatted.h"
#include "client/session/connection.h"
#include "net/socket.h"
#include "support/graph_kit.h"
#include "support/wire_peer.h"
#include "wire/extension.h"

namespace caravan::client::scripted {

using test::GraphKit;
using test::Message;
using test::WirePeer;
using wire::Command;

inline constexpr wire::HelloReply good_hello{wire::stock_major, wire::stock_minor, wire::stock_patch, 0, {}};

// The hello of a server with the native dialect.
inline wire::HelloReply native_hello() {
    auto hello = good_hello;
    wire::Extension extension;
    extension.features = wire::feature_native;
    std::memcpy(hello.capabilities, &extension, sizeof extension);
    return hello;
}

// The names of the commands, each followed by a space.
inline std::string command_names(const std::vector<Message> & messages) {
    std::string out;
    for (const Message & message : messages) {
        out += formatted("{} ", wire::span_name(static_cast<uint8_t>(message.command)));
    }
    return out;
}

// A session and its server. Local sockets deliver before send() returns, so most tests need one thread: a reply may be sent
// before its request.
struct Session {
    // `greet` plays the server until the handshake is over.
    explicit Session(const std::function<void(WirePeer &)> & greet, const ConnectionOptions & options = {}) {
        auto listeners = net::listen_on("127.0.0.1", 0);
        EXPECT_TRUE(listeners);
        const net::Listener & listener = listeners->front();
        net::set_non_blocking(listener.fd.get(), false);
        std::jthread server([&] {
            auto accepted = net::accept_socket(listener.fd.get());
            ASSERT_TRUE(accepted && *accepted);
            peer = WirePeer(std::move(*accepted));
            greet(peer);
        });
        connection = Connection::open(listener.endpoint, Connection::Purpose::session, options);
        endpoint = listener.endpoint.text();
    }
    explicit Session(wire::HelloReply hello = good_hello, const ConnectionOptions & options = {})
        : Session([hello](WirePeer & peer) {
              const Message message = peer.next();
              EXPECT_EQ(message.command, Command::hello);
              EXPECT_EQ(message.payload.size(), 24u);
              EXPECT_EQ(message.as<uint32_t>(), 0u) << "a stock RDMA server would take it for a queue pair";
              EXPECT_TRUE(peer.reply(hello));
          }, options) {}

    Connection * operator->() { return connection->get(); }

    ggml_status launch(const ggml_cgraph * graph, uint32_t device = 0) {
        return (*connection)->launch(device, *graph, kit.handle_of());
    }
    void set(const ggml_tensor * tensor, ConstBytes data, bool is_weight = false) {
        (*connection)->data().set(encode_region(*tensor, GraphKit::handle), range_of(*tensor, 0, data.size()), 0, data,
                                  is_weight);
    }
    Stream::Ticket get(const ggml_tensor * tensor, MutableBytes dest) {
        return (*connection)->data().get(encode_region(*tensor, GraphKit::handle), range_of(*tensor, 0, dest.size()), 0, dest);
    }
    // A graph of one node.
    ggml_cgraph * doubled(ggml_tensor * source, uint64_t uid) {
        return kit.graph({kit.place(ggml_scale(kit.context(), source, 2))}, uid);
    }
    void expect_launch(Command command, uint64_t uid) {
        const Message message = peer.next();
        EXPECT_EQ(message.command, command) << wire::command_name(message.command);
        EXPECT_EQ(message.as<uint64_t>(4), uid);
    }

    // Flushes the batch. Appends a DEVICE_COUNT.
    void flush() {
        peer.reply(uint32_t{1});
        EXPECT_TRUE((*connection)->queries().device_count());
    }

    GraphKit kit;
    WirePeer peer;
    std::string endpoint;
    Result<std::shared_ptr<Connection>> connection = fail(Errc::io, "not opened");
};

}  // namespace caravan::client::scripted
