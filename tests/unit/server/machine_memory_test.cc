// How the machine's memory is divided among sessions.
#include "server/ipc/machine_memory.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "server/session/session.h"
#include "support/cpu_device.h"
#include "support/wire_peer.h"

namespace caravan::server {
namespace {

using test::operator+;

constexpr uint64_t mib = uint64_t{1} << 20;

// A session over a local socket, and the supervisor's answers.
struct AskingSession {
    AskingSession() {
        auto pair = test::socket_pair();
        peer = test::WirePeer(std::move(pair.far));
        net::set_non_blocking(pair.near.get(), true);
        thread = std::thread([this, transport = *net::make_socket_transport(std::move(pair.near))]() mutable {
            Session session(*transport, {}, test::cpu_devices(), nullptr, nullptr, MemoryBudget::no_limit, &machine);
            session.run();
        });
    }
    ~AskingSession() { end(); }
    void end() {
        if (thread.joinable()) {
            peer.end_sending();
            thread.join();
        }
    }
    bool answer(const ControlMessage & claim) {
        if (claim.memory_free != besides.load()) {
            besides = claim.memory_free;
            EXPECT_EQ(claim.memory_total, claims.empty() ? 0 : claims.back());
            return true;
        }
        claims.push_back(claim.memory_total);
        const bool is_granted = claim.memory_total <= limit;
        if (claim.number != 0) {
            machine.on_reply({.kind = ControlMessage::Kind::claim, .number = claim.number - 1});  // to an earlier one
            machine.on_reply({.kind = ControlMessage::Kind::claim,
                              .number = claim.number,
                              .count = is_granted ? 1u : 0u,
                              .memory_free = limit - std::min(limit, claim.memory_total)});
        }
        return true;
    }
    uint64_t alloc(uint64_t size) {
        peer.ask(wire::Command::alloc_buffer, wire::AllocBufferRequest{0, size});
        return peer.receive_reply_as<wire::AllocBufferReply>().buffer;
    }
    uint64_t free_memory() {
        peer.ask(wire::Command::get_device_memory, uint32_t{0});
        return peer.receive_reply_as<wire::DeviceMemoryReply>().free;
    }

    const uint64_t limit = 8 * mib;
    std::vector<uint64_t> claims;
    std::atomic<uint64_t> besides = 0;  // as reported last
    MachineMemory machine{[this](const ControlMessage & claim) { return answer(claim); }};
    test::WirePeer peer;
    std::thread thread;
};

TEST(MachineMemoryTest, ASessionAsksBeforeItAllocates) {
    AskingSession session;
    const uint64_t first = session.alloc(5 * mib);
    EXPECT_NE(first, 0u);
    EXPECT_EQ(session.free_memory(), 3 * mib);
    EXPECT_EQ(session.alloc(4 * mib), 0u) << "the session goes on";
    session.peer.ask(wire::Command::free_buffer, first);
    EXPECT_EQ(session.free_memory(), 8 * mib);
    EXPECT_NE(session.alloc(4 * mib), 0u);
    session.end();
    EXPECT_EQ(session.claims, (std::vector<uint64_t>{5 * mib, 5 * mib, 9 * mib, 5 * mib, 0, 0, 4 * mib}));
}

// Else a graph that is large, or arrives slowly, would count as touched bytes of buffers that are promised.
TEST(MachineMemoryTest, WhatASessionTakesBesidesItsBuffersIsReported) {
    AskingSession session;
    EXPECT_NE(session.alloc(mib), 0u);
    constexpr uint64_t graph = 40 * mib;
    session.peer.send(test::bytes_of(wire::RequestHeader{wire::Command::graph_compute, graph}) +
                      test::bytes_of(wire::GraphComputeRequest{}));
    for (const TimePoint end = Clock::now() + test::patience; session.besides < graph && Clock::now() < end;) {
        std::this_thread::yield();
    }
    EXPECT_GE(session.besides, graph) << "while it arrives";
    session.end();
    EXPECT_LT(session.besides, 16 * mib) << "and no longer";
}

}  // namespace
}  // namespace caravan::server
