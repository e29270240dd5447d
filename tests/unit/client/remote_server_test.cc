#include "client/remote_server.h"

#include <gtest/gtest.h>

#include "support/scripted_server.h"

namespace caravan::client {
namespace {

using test::ScriptedServer;
using test::WirePeer;
using wire::Command;

// Answers questions about `devices` devices. Each has 4 MiB of memory free less one for each time that it is asked.
class Questioned {
public:
    explicit Questioned(uint32_t devices)
        : server([this, devices](WirePeer & peer, Command first) { serve(peer, first, devices); },
                 [](size_t) { return wire::Extension{.features = wire::feature_native}; }) {}

    std::atomic<uint64_t> asked_for_memory = 0;
    ScriptedServer server;

private:
    // Until the client waits for nothing more: it asks for all constants at once.
    void serve(WirePeer & peer, Command first, uint32_t devices) {
        if (first == Command::get_device_memory) {
            peer.answer(wire::DeviceMemoryAnswer{(4 << 20) - ++asked_for_memory, 8 << 20});
            return;
        }
        peer.answer(devices);
        for (uint32_t i = 0; i < 3 * devices; ++i) {
            const auto question = peer.next();
            EXPECT_EQ(question.as<uint32_t>(), i / 3);
            if (question.command == wire::command_device_facts) {
                wire::DeviceFactsAnswer facts{};
                std::strcpy(facts.name, "GPU\x1b[2J");
                std::strcpy(facts.description, "fast\nerror: forged");
                peer.answer(facts);
            } else {
                peer.answer(uint64_t{64} << question.as<uint32_t>());
            }
        }
    }
};

TEST(RemoteServer, KnowsTheConstantsOfItsDevices) {
    Questioned of(3);
    const auto server = RemoteServer::reach(of.server.endpoint());
    ASSERT_TRUE(server) << server.error().text;
    ASSERT_EQ((*server)->device_count(), 3u);
    EXPECT_EQ((*server)->alignment(0), 64u);
    EXPECT_EQ((*server)->alignment(2), 256u);
    EXPECT_EQ((*server)->max_size(1), 128u);
    EXPECT_EQ((*server)->description(1), of.server.endpoint().text() + " (GPU?[2J: fast?error: forged)");
    EXPECT_EQ(of.server.count(Command::device_count), 1) << "one connection for all";
}

// llama.cpp asks four times for each device before it loads a model, and each takes a connection.
TEST(RemoteServer, IsAskedForItsMemoryOnceInARow) {
    Questioned of(2);
    const auto server = RemoteServer::reach(of.server.endpoint());
    ASSERT_TRUE(server) << server.error().text;
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ((*server)->memory(0).value().free, (4u << 20) - 1);
        EXPECT_EQ((*server)->memory(1).value().free, (4u << 20) - 2);
    }
    EXPECT_EQ(of.server.count(Command::get_device_memory), 2);
}

}  // namespace
}  // namespace caravan::client
