// A server that completes the handshake and leaves the rest to the test.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "net/socket.h"
#include "wire/extension.h"
#include "support/wire_peer.h"

namespace caravan::test {

// Accepts connections in a thread of its own, completes the handshake, reads the first command and calls `serve` with both.
// Connections stay open unless `serve` closes them.
class ScriptedServer {
public:
    using Serve = std::function<void(WirePeer &, wire::Command first)>;

    // `extension` returns the capabilities that the server sends on its nth connection, counted from 0.
    explicit ScriptedServer(Serve serve,
                            std::function<wire::Extension(size_t n)> extension = [](size_t) { return resumable; })
        : serve_(std::move(serve)), extension_(std::move(extension)) {
        auto listeners = net::listen_on("127.0.0.1", 0);
        EXPECT_TRUE(listeners);
        listener_ = std::move(listeners->front());
        thread_ = std::jthread([this](const std::stop_token & stop) { work(stop); });
    }

    const net::Endpoint & endpoint() const { return listener_.endpoint; }
    // The number of connections so far whose first command was `command`.
    int count(wire::Command command) {
        const std::lock_guard lock(mutex_);
        return counts_[command];
    }

    static constexpr wire::Extension resumable{.features = wire::feature_native | wire::feature_resume, .token = 77};

private:
    void work(const std::stop_token & stop) {
        for (size_t number = 0; !stop.stop_requested();) {
            pollfd listening{listener_.fd.get(), POLLIN, 0};
            if (::poll(&listening, 1, 20) <= 0) {
                continue;
            }
            auto accepted = net::accept_socket(listener_.fd.get());
            if (!accepted || !*accepted) {
                continue;
            }
            WirePeer & peer = peers_.emplace_back(std::move(*accepted));
            wire::HelloReply hello{wire::stock_major, wire::stock_minor, wire::stock_patch, 0, {}};
            const wire::Extension extension = extension_(number++);
            std::memcpy(&hello.capabilities, &extension, sizeof extension);
            if (!peer.next_or_end() || !peer.reply(hello)) {
                continue;
            }
            const auto first = peer.next_or_end();  // reads the payload, too: closing with unread data is a reset
            if (!first) {
                continue;
            }
            {
                const std::lock_guard lock(mutex_);
                ++counts_[first->command];
            }
            serve_(peer, first->command);
        }
    }

    const Serve serve_;
    const std::function<wire::Extension(size_t)> extension_;
    net::Listener listener_;
    std::vector<WirePeer> peers_;
    std::mutex mutex_;
    std::map<wire::Command, int> counts_;
    std::jthread thread_;
};

}  // namespace caravan::test
