// A session in the native dialect.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "base/formatted.h"
#include "cache/digest.h"
#include "cache/layout.h"
#include "support/session_client.h"
#include "support/temporary_folder.h"

namespace caravan::server {
namespace {

using test::NativeClient;
using test::bytes_of;
using test::f32_tensor;
using test::noise;
using test::operator+;
using wire::Command;

TEST(NativeSession, WritesReadsFillsAndCopies) {
    NativeClient client;
    client.declare(0, client.buffer);
    client.declare(4095, client.buffer + 64);
    client.write(0, {1, 2, 3, 4});
    client.post(wire::NativeCommand::copy, wire::CopyRequest{0, 4095});
    client.post(wire::NativeCommand::fill, wire::FillRequest{0, 4, 8, 0});
    EXPECT_EQ(client.read(4095), (std::vector<float>{1, 2, 3, 4}));
    EXPECT_EQ(client.read(0), (std::vector<float>{1, 0, 0, 4}));
    client.declare(0, client.buffer + 64);
    EXPECT_EQ(client.read(0), (std::vector<float>{1, 2, 3, 4})) << "the last declaration applies";
}

// Finds that hit, miss or fail verification, and two for the same address, all sent ahead.
TEST(NativeSession, RepliesToFindsInOrder) {
    const test::TemporaryFolder folder;
    cache::Weights weights(cache::WeightOptions{.directory = folder.path(), .keep = true});
    const auto keep = [&](size_t count) {
        const auto data = noise(count * 4);
        auto writer = weights.begin(data.size(), cache::Keys::digest);
        writer->append(data);
        EXPECT_TRUE(writer->commit());
        return data;
    };
    const std::vector<std::vector<std::byte>> contents{keep(1'250'000), keep(1'250'001), keep(1'250'002), keep(3), noise(400)};
    const auto digest_of = [](ConstBytes data) {
        cache::Blake3 digest;
        digest.update(data);
        return digest.bytes();
    };
    {
        const auto blobs = cache::layout_in(folder.path()).blobs();
        std::fstream damaged(blobs / cache::hex_of(digest_of(contents[2])), std::ios::in | std::ios::out | std::ios::binary);
        damaged.seekp(4'000'000).put(damaged.peek() == 'x' ? 'y' : 'x');
    }
    weights.seal();
    NativeClient client(test::cpu_devices(), MemoryBudget::no_limit, &weights);
    client.alloc(64 << 20);
    const auto place = [&](uint16_t slot) { return client.base + slot * uint64_t{8 << 20}; };
    const auto find_bytes = [&](uint16_t slot, const std::vector<std::byte> & data) {
        const uint64_t count = data.size() / 4;
        wire::FindRequest request{slot, 0, data.size(), {}};
        std::ranges::copy(digest_of(data), request.digest);
        return test::message(static_cast<Command>(wire::NativeCommand::declare),
                             bytes_of(wire::DeclareRequest{slot, {GGML_TYPE_F32, {count, 1, 1, 1},
                                                                  {4, count * 4, count * 4, count * 4}, place(slot)}})) +
               test::message(static_cast<Command>(wire::NativeCommand::find), bytes_of(request));
    };
    const auto find = [&](uint16_t slot, const std::vector<std::byte> & data) { client.peer.send(find_bytes(slot, data)); };
    // In one send, even if only one find may be open.
    client.peer.send(find_bytes(5, contents[0]) + find_bytes(5, contents[1]));
    for (uint16_t slot = 0; slot < 5; ++slot) {
        find(slot, contents[slot]);
    }
    for (const int found : {1, 1, 1, 1, 0, 1, 0}) {
        EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), found);
    }
    for (const auto & [slot, index] : {std::pair<uint16_t, size_t>{0, 0}, {1, 1}, {3, 3}, {5, 1}}) {
        const auto & data = contents[index];
        client.declare(slot, place(slot), data.size() / 4);
        client.post(wire::NativeCommand::read, wire::ReadRequest{slot, 0, data.size()});
        EXPECT_EQ(client.peer.receive_reply(), data) << slot;
    }
    find(2, contents[2]);
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0) << "the damaged blob was removed";
    client.peer.send(find_bytes(2, contents[0]) + test::message(static_cast<Command>(wire::NativeCommand::read),
                                                                bytes_of(wire::ReadRequest{2, 0, contents[0].size()})));
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1) << "the read waits for verification";
    EXPECT_EQ(client.peer.receive_reply(), contents[0]);
}

// A damaged blob may hold foreign bytes, which no client may read.
TEST(NativeSession, UnverifiedBytesAreZeroed) {
    const test::TemporaryFolder folder;
    const auto data = noise(1'250'001 * 4);
    cache::Blake3 digest;
    digest.update(data);
    const auto blob = cache::layout_in(folder.path()).blob(digest.hex());
    for (const bool is_sealed : {false, true}) {
        for (const bool by_digest : {true, false}) {
            cache::Weights weights(cache::WeightOptions{.directory = folder.path(), .keep = true});
            auto writer = weights.begin(data.size(), cache::Keys::digest_and_fnv);
            writer->append(data);
            ASSERT_TRUE(writer->commit());
            std::fstream(blob, std::ios::in | std::ios::out | std::ios::binary).seekp(4'000'000).write("altered", 7);
            if (is_sealed) {
                weights.seal();
            }
            NativeClient client(test::cpu_devices(), MemoryBudget::no_limit, &weights);
            const uint64_t buffer = client.alloc(8 << 20);
            client.declare(0, client.base, data.size() / 4);
            if (by_digest) {
                wire::FindRequest request{0, 0, data.size(), {}};
                std::ranges::copy(digest.bytes(), request.digest);
                client.post(wire::NativeCommand::find, request);
            } else {
                const auto tensor = f32_tensor(1, {static_cast<uint32_t>(data.size() / 4), 1, 1, 1}, buffer, client.base);
                client.peer.ask(Command::set_tensor_hash, wire::SetTensorHashRequest{tensor, 0, wire::fnv1a(data)});
            }
            EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 0);
            client.post(wire::NativeCommand::read, wire::ReadRequest{0, 0, data.size()});
            EXPECT_TRUE(client.peer.receive_reply() == std::vector<std::byte>(data.size())) << is_sealed << by_digest;
        }
    }
}

TEST(NativeSession, StoresUpdatesAndLaunchesGraphs) {
    NativeClient client;
    for (uint16_t slot = 0; slot < 4; ++slot) {
        client.declare(slot, client.buffer + 64 * slot);
    }
    client.write(0, {1, 2, 3, 4});
    client.write(1, {10, 20, 30, 40});
    const auto sum = client.sum();
    client.graph(5, sum);
    EXPECT_EQ(client.read(2), (std::vector<float>{11, 22, 33, 44}));
    auto product = sum;
    product[2].op = GGML_OP_MUL;
    product[2].address = client.buffer + 192;
    client.graph(6, product, 5, sum);
    EXPECT_EQ(client.read(3), (std::vector<float>{10, 40, 90, 160}));
    client.write(0, {0, 0, 0, 0});
    client.post(wire::NativeCommand::launch, wire::LaunchRequest{5});
    EXPECT_EQ(client.read(2), (std::vector<float>{10, 20, 30, 40}));
}

TEST(NativeSession, InvalidGraphKeepsSession) {
    NativeClient client;
    client.declare(2, client.buffer + 128);
    client.graph(0, client.sum(GGML_OP_MUL_MAT_ID));
    auto text = client.receive_text();
    EXPECT_EQ(text.first, wire::ReplyKind::launch_failed);
    EXPECT_NE(text.second.find("source 2 is missing"), std::string::npos) << text.second;
    client.post(wire::NativeCommand::launch, wire::LaunchRequest{0});
    EXPECT_EQ(client.receive_text().first, wire::ReplyKind::launch_failed);
    auto outside = client.sum();
    outside[1].address = client.buffer + 4090;
    client.graph(0, outside);
    EXPECT_EQ(client.receive_text().first, wire::ReplyKind::launch_failed);
    for (const uint32_t reference : {4u, 1000u, UINT32_MAX}) {
        auto missing = client.sum();
        missing[2].src[1] = reference;
        client.graph(0, missing);
        text = client.receive_text();
        EXPECT_EQ(text.first, wire::ReplyKind::launch_failed);
        EXPECT_NE(text.second.find("referenced but missing"), std::string::npos) << text.second;
    }
    client.graph(1, client.sum());
    EXPECT_EQ(client.read(2), (std::vector<float>{0, 0, 0, 0}));
}

TEST(NativeSession, FreeingBufferDropsItsGraphs) {
    NativeClient client;
    client.graph(0, client.sum());
    client.peer.ask(Command::free_buffer, client.buffer);
    client.post(wire::NativeCommand::launch, wire::LaunchRequest{0});
    EXPECT_EQ(client.receive_text().first, wire::ReplyKind::launch_failed);
}

TEST(NativeSession, RepliesWhetherOpsAreSupported) {
    NativeClient client;
    auto questions = client.sum();
    questions.push_back(questions[2]);
    questions[3].op = GGML_OP_MUL_MAT;  // with a missing source
    questions[3].src[1] = 0;
    std::vector<std::byte> difference;
    wire::encode_difference({}, questions, difference);
    client.post(wire::NativeCommand::supports, wire::SupportsRequest{0, 4}, difference);
    EXPECT_EQ(client.peer.receive_reply(), (std::vector{std::byte{1}, std::byte{0}}));
}

// A copy of a graph takes few bytes to send but as many as the graph to store.
TEST(NativeSession, StoredGraphsAreBounded) {
    NativeClient client;
    const std::vector<wire::GraphTensor> many(wire::max_graph_tensors);
    client.graph(0, many);
    for (uint16_t slot = 1; slot < 8; ++slot) {
        client.graph(slot, many, 0, many);
    }
    auto text = client.receive_text();
    EXPECT_EQ(text.first, wire::ReplyKind::ended);
    EXPECT_NE(text.second.find("tensors in total"), std::string::npos) << text.second;
}

// Also if it is the first command of the native dialect.
TEST(NativeSession, InvalidSizeEndsSessionWithReason) {
    for (auto number = static_cast<size_t>(wire::first_native); number <= static_cast<size_t>(wire::last_native); ++number) {
        const auto command = static_cast<wire::NativeCommand>(number);
        const wire::PayloadBounds bounds = wire::payload_bounds(command);
        const uint64_t size = bounds.low == 0 ? 1 : bounds.low - 1;
        NativeClient client;
        client.peer.request(static_cast<Command>(command), noise(size));
        const auto text = client.receive_text();
        EXPECT_EQ(text.first, wire::ReplyKind::ended) << number;
        EXPECT_EQ(text.second, formatted("{}: invalid payload size of {} bytes", wire::command_name(command), size));
        EXPECT_EQ(client.end().text, text.second);
    }
}

TEST(NativeSession, EndsIfTheClientHasNotAnnouncedTheDialect) {
    auto pair = test::socket_pair();
    test::WirePeer peer(std::move(pair.far));
    net::set_non_blocking(pair.near.get(), true);
    const auto transport = *net::make_socket_transport(std::move(pair.near));
    Session session(*transport, {}, test::cpu_devices(), nullptr, nullptr);
    session.accepts_native = false;
    peer.request(static_cast<Command>(wire::NativeCommand::facts), {});
    peer.end_sending();
    EXPECT_EQ(session.run().text, "FACTS: the client has not announced the native dialect");
    EXPECT_EQ(session.counters().bytes_sent, 0u);
}

// Each attack ends the session, with the reason sent to the client.
TEST(NativeSession, OutOfBoundsRequestEndsSession) {
    const std::vector<std::function<void(NativeClient &)>> attacks{
        [](NativeClient & c) { c.declare(4096, c.buffer); },
        [](NativeClient & c) { c.write(7, {1}); },
        [](NativeClient & c) { c.declare(0, c.buffer + 4092), c.write(0, {1, 2, 3, 4}); },
        [](NativeClient & c) { c.declare(0, c.buffer - 4), c.write(0, {1, 2, 3, 4}); },
        [](NativeClient & c) { c.declare(0, 0), c.write(0, {1, 2, 3, 4}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.write(0, {1, 2, 3, 4, 5}); },
        [](NativeClient & c) { c.declare(0, c.buffer, UINT64_MAX / 4), c.write(0, {1}); },
        [](NativeClient & c) { c.declare(0, c.buffer, uint64_t{1} << 62), c.write(0, {1}); },
        [](NativeClient & c) { c.post(wire::NativeCommand::read, wire::ReadRequest{0, 0, 4}); },
        [](NativeClient & c) {
            c.declare(0, c.buffer), c.post(wire::NativeCommand::read, wire::ReadRequest{0, UINT64_MAX, 4});
        },
        [](NativeClient & c) { c.declare(0, c.buffer), c.post(wire::NativeCommand::fill, wire::FillRequest{0, 8, 16, 1}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.post(wire::NativeCommand::copy, wire::CopyRequest{0, 1}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.post(wire::NativeCommand::copy, wire::CopyRequest{1, 0}); },
        [](NativeClient & c) {
            c.post(wire::NativeCommand::graph, wire::GraphRequest{0, wire::max_graph_slots, wire::no_base, 0});
        },
        [](NativeClient & c) { c.post(wire::NativeCommand::graph, wire::GraphRequest{9, 0, wire::no_base, 0}); },
        [](NativeClient & c) { c.post(wire::NativeCommand::graph, wire::GraphRequest{0, 0, wire::no_base, 1000}); },
        [](NativeClient & c) { c.post(wire::NativeCommand::graph, wire::GraphRequest{0, 0, wire::max_graph_slots, 0}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.post(wire::NativeCommand::push, wire::PushRequest{0, 0}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.post(wire::NativeCommand::take, wire::TakeRequest{1, 0}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 0, 0, 8, 3, 8, 1000}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 8, 0, 8, 2, 8, 1000}); },
        [](NativeClient & c) { c.find_part({0, 0, 0, 8, 2, 8, 1000}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 0, 0, 8, 2, 7, 1000}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 0, 0, 8, 2, 8, 15}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 0, 0, 0, 2, 8, 1000}); },
        [](NativeClient & c) { c.declare(0, c.buffer), c.find_part({0, 0, 0, 8, 0, 8, 1000}); },
        [](NativeClient & c) {
            c.declare(0, c.buffer), c.find_part({0, 0, UINT64_MAX - 7, 8, 2, uint64_t{1} << 63, UINT64_MAX});
        },
    };
    for (size_t i = 0; i < attacks.size(); ++i) {
        NativeClient client;
        attacks[i](client);
        const auto text = client.receive_text();
        EXPECT_EQ(text.first, wire::ReplyKind::ended) << i;
        EXPECT_FALSE(text.second.empty()) << i;
        EXPECT_NE(client.end().code, Errc::closed) << i;
    }
}

TEST(NativeSession, ReducesEmptyTensorsAtAnyAddress) {
    NativeClient client;
    client.post(wire::NativeCommand::group, wire::GroupRequest{0, 0, 1, 9}, bytes_of(wire::GroupPeer{}));
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1);
    client.declare(0, 0, 0);
    client.declare(1, uint64_t{77} << 48, 0);
    client.declare(2, client.buffer, 0);
    client.declare(3, client.buffer);
    client.write(3, {1, 2, 3, 4});
    for (const uint16_t slot : {0, 1, 2, 3}) {
        client.post(wire::NativeCommand::reduce, wire::ReduceRequest{0, 0, wire::Precision::f32}, bytes_of(slot));
    }
    client.post(wire::NativeCommand::reduce, wire::ReduceRequest{0, 0, wire::Precision::f32},
                bytes_of(uint16_t{0}) + bytes_of(uint16_t{2}));
    EXPECT_EQ(client.read(3), (std::vector<float>{1, 2, 3, 4}));
    client.declare(4, 0);
    client.post(wire::NativeCommand::reduce, wire::ReduceRequest{0, 0, wire::Precision::f32}, bytes_of(uint16_t{4}));
    EXPECT_EQ(client.receive_text(), std::pair(wire::ReplyKind::ended, std::string("REDUCE: the tensor has no buffer")));
}

TEST(NativeSession, ReportsTheAlgorithmOfAGroup) {
    NativeClient client;
    client.post(wire::NativeCommand::algorithm, wire::AlgorithmRequest{0, 4096});
    EXPECT_EQ(client.receive_text(), std::pair(wire::ReplyKind::refused, std::string("no group 0")));
    client.post(wire::NativeCommand::group, wire::GroupRequest{0, 0, 1, 9}, bytes_of(wire::GroupPeer{}));
    EXPECT_EQ(client.peer.receive_reply_as<uint8_t>(), 1);
    for (const uint64_t bytes : {uint64_t{0}, uint64_t{4096}, UINT64_MAX}) {
        client.post(wire::NativeCommand::algorithm, wire::AlgorithmRequest{0, bytes});
        EXPECT_EQ(client.peer.receive_reply_as<wire::AlgorithmReply>().algorithm, 0) << bytes;
    }
}

}  // namespace
}  // namespace caravan::server
