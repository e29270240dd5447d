// A session: handshake, queries, buffers, data and graphs, with a server that the test plays.
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/formatted.h"
#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using scripted::command_names;
using scripted::native_hello;
using test::GraphKit;
using test::Message;
using test::WirePeer;
using test::noise;
using test::operator+;
using wire::Command;

TEST(Handshake, OtherPatchVersionAndCapabilitiesAreAccepted) {
    wire::HelloReply hello{8, 0, 9, 77, {}};
    hello.capabilities[3] = std::byte{5};
    Session session(hello);
    EXPECT_TRUE(session.connection);
}

TEST(Handshake, OtherVersionIsRefusedAndErrorNamesBoth) {
    for (const auto & [major, minor] : {std::pair{8, 1}, {7, 0}, {9, 0}, {6, 0}, {5, 1}, {0, 0}, {255, 255}}) {
        Session session(wire::HelloReply{static_cast<uint8_t>(major), static_cast<uint8_t>(minor), 2, 0, {}});
        ASSERT_FALSE(session.connection) << major << '.' << minor;
        const Error & error = session.connection.error();
        EXPECT_EQ(error.code, Errc::unsupported);
        EXPECT_TRUE(error.text.contains(formatted("{}.{}.2", major, minor)) && error.text.contains("8.0") &&
                    error.text.contains(session.endpoint))
            << error.text;
    }
}

TEST(Handshake, ReplyOfWrongSizeIsRefused) {
    for (const size_t size : {0u, 3u, 24u, 29u, 1000u}) {
        Session session([&](WirePeer & peer) {
            peer.next();
            peer.reply_bytes(std::vector<std::byte>(size, std::byte{8}));
        });
        ASSERT_FALSE(session.connection) << size;
        EXPECT_EQ(session.connection.error().code, Errc::protocol);
    }
}

TEST(Handshake, ServerThatDisconnectsIsAnError) {
    for (const bool answers_half : {false, true}) {
        Session session([&](WirePeer & peer) {
            peer.next();
            if (answers_half) {
                peer.send(test::bytes_of(uint64_t{28}));
            }
            peer.close();
        });
        ASSERT_FALSE(session.connection);
        EXPECT_EQ(session.connection.error().code, Errc::closed);
    }
}

TEST(Queries, UseTheCommandsOfTheProtocol) {
    Session session;
    ASSERT_TRUE(session.connection);
    session.peer.reply(uint32_t{3});
    EXPECT_EQ(session->queries().device_count().value(), 3u);
    session.peer.reply(uint64_t{64});
    session.peer.reply(UINT64_MAX);
    const auto constants = session->queries().constants(1).value();
    EXPECT_EQ(constants.at(0).alignment, 64u);
    EXPECT_EQ(constants.at(0).max_size, UINT64_MAX);
    session.peer.reply(wire::DeviceMemoryReply{5, 6});
    const auto memory = session->queries().memory(0).value();
    EXPECT_EQ(memory.free, 5u);
    EXPECT_EQ(memory.total, 6u);
    for (const auto & [command, payload] :
         {std::pair{Command::device_count, std::vector<std::byte>()}, {Command::get_alignment, test::bytes_of(uint32_t{0})},
          {Command::get_max_size, test::bytes_of(uint32_t{0})}, {Command::get_device_memory, test::bytes_of(uint32_t{0})}}) {
        const Message message = session.peer.next();
        EXPECT_EQ(message.command, command);
        EXPECT_EQ(message.payload, payload);
    }
}

TEST(Buffers, AllocationQueriesTheBase) {
    Session session;
    session.peer.reply(wire::AllocBufferReply{42, 1024});
    session.peer.reply(uint64_t{0x7000});
    const auto buffer = session->buffers().alloc(1, 1000);
    ASSERT_TRUE(buffer) << buffer.error().text;
    EXPECT_EQ(buffer->handle, 42u);
    EXPECT_EQ(buffer->base, 0x7000u);
    EXPECT_GE(buffer->size, 1000u);
    EXPECT_EQ(session.peer.next().as<uint64_t>(4), 1000u);
    EXPECT_EQ(session.peer.next().as<uint64_t>(), 42u);
}

TEST(Buffers, FailedAllocationIsNoMemoryAndSessionContinues) {
    Session session;
    session.peer.reply(wire::AllocBufferReply{0, 0});
    const auto buffer = session->buffers().alloc(0, uint64_t{1} << 40);
    ASSERT_FALSE(buffer);
    EXPECT_EQ(buffer.error().code, Errc::no_memory);
    EXPECT_FALSE(session->failed());
}

// A buffer that wraps around or is smaller than requested would invalidate every later range.
TEST(Buffers, InvalidReplyIsRefused) {
    for (const auto & [answer, base] : {std::pair{wire::AllocBufferReply{1, 999}, uint64_t{0x7000}},
                                        {wire::AllocBufferReply{1, 1000}, uint64_t{0}},
                                        {wire::AllocBufferReply{1, UINT64_MAX}, uint64_t{0x7000}},
                                        {wire::AllocBufferReply{1, 1000}, UINT64_MAX - 10}}) {
        Session session;
        session.peer.reply(answer);
        session.peer.reply(base);
        const auto buffer = session->buffers().alloc(0, 1000);
        ASSERT_FALSE(buffer);
        EXPECT_EQ(buffer.error().code, Errc::protocol);
    }
}

TEST(Writes, KeepOrderForAllSizes) {
    Session session;
    ggml_tensor * tensor = session.kit.f32(1 << 20);
    const std::vector<size_t> sizes{4, 100'000, 8, 64 * 1024, 64 * 1024 + 4, 2'000'000, 4};
    std::jthread server([&] {
        for (size_t i = 0; i < sizes.size(); ++i) {
            const Message message = session.peer.next();
            EXPECT_EQ(message.command, Command::set_tensor);
            EXPECT_EQ(message.as<uint8_t>(sizeof(wire::Tensor)), 0) << "no weights";
            EXPECT_EQ(message.from(sizeof(wire::SetTensorRequest)), noise(sizes[i], static_cast<uint32_t>(i)));
        }
        EXPECT_EQ(session.peer.next().command, Command::device_count);
    });
    for (size_t i = 0; i < sizes.size(); ++i) {
        session.set(tensor, noise(sizes[i], static_cast<uint32_t>(i)));
    }
    session.flush();
}

TEST(Writes, StayInBatchUntilObservable) {
    Session session;
    session.set(session.kit.f32(8), noise(32));
    session->synchronize();
    EXPECT_EQ(session.peer.unread(), 0u);
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::set_tensor);
}

TEST(Writes, ManySmallWritesAreSent) {
    Session session;
    size_t arrived = 0;
    ggml_tensor * tensor = session.kit.f32(1 << 14);
    for (int i = 0; i < 100 && arrived == 0; ++i) {
        session.set(tensor, noise(1 << 16));
        arrived = session.peer.unread();
        std::ignore = session.peer.receive(arrived);
    }
    EXPECT_GT(arrived, 0u);
}

TEST(Writes, EmptyWritesAreNotSent) {
    Session session;
    session.set(session.kit.f32(8), {});
    session->data().memset(wire::Tensor{}, {1, 1}, 0, 0, 7);
    session->data().set_2d(wire::Tensor{}, {1, 1}, 0, 0, 5, 8, nullptr, 8);
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::device_count);
    EXPECT_EQ(session.get(session.kit.f32(8), {}).number, 0u);
}

TEST(Writes, UnreadInputIsSentOnceAndBeforeARead) {
    Session session;
    ggml_tensor *used = session.kit.f32(8), *unused = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(used, 31);
    for (uint32_t token = 0; token < 3; ++token) {
        session.set(used, noise(32, token));
        session.set(unused, noise(32, 100 + token));
        session.launch(graph);
        EXPECT_EQ(session.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, token));
        if (token == 0) {
            EXPECT_EQ(session.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 100));
        }
        session.expect_launch(token == 0 ? Command::graph_compute : Command::graph_recompute, 31);
        EXPECT_EQ(session.peer.unread(), 0u);
    }
    std::vector<std::byte> dest(4);
    const auto ticket = session->data().get(encode_region(*unused, GraphKit::handle), range_of(*unused, 28, 4), 28, dest);
    const Message write = session.peer.next();
    EXPECT_EQ(write.command, Command::set_tensor);
    EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(32, 102));
    EXPECT_EQ(+write.as<wire::Tensor>().data, reinterpret_cast<uint64_t>(unused->data));
    EXPECT_EQ(+session.peer.next().as<wire::GetTensorRequest>().offset, 28u);
    session.peer.reply_bytes(noise(4));
    session->await(ticket);
}

TEST(Writes, TwoDimensionalWritesArePacked) {
    Session session;
    const auto data = noise(100);
    session->data().set_2d(encode_region(*session.kit.f32(64), GraphKit::handle), {0, 1}, 8, 4, 3, 32, data.data(), 10);
    session.flush();
    const Message message = session.peer.next();
    EXPECT_EQ(message.command, Command::set_tensor_2d);
    const auto request = message.as<wire::Tensor2dRequest>();
    EXPECT_EQ(+request.offset, 8u);
    EXPECT_EQ(+request.size, 4u);
    EXPECT_EQ(+request.n_copies, 3u);
    EXPECT_EQ(+request.stride, 32u);
    std::vector<std::byte> packed;
    for (const size_t row : {0, 10, 20}) {
        packed.insert(packed.end(), data.begin() + row, data.begin() + row + 4);
    }
    EXPECT_EQ(message.from(sizeof request), packed);
}

TEST(Copy, ReturnsTheReply) {
    for (const uint8_t done : {1, 0}) {
        Session session;
        const wire::Region src = encode_region(*session.kit.f32(8), GraphKit::handle);
        const wire::Region dst = encode_region(*session.kit.f32(8), GraphKit::handle);
        session.peer.reply(done);
        EXPECT_EQ(session->data().copy(src, {0, 32}, dst, {64, 96}), done != 0);
        const Message message = session.peer.next();
        EXPECT_EQ(message.command, Command::copy_tensor);
        EXPECT_EQ(message.payload, test::bytes_of(wire::CopyTensorRequest{stock_tensor(src), stock_tensor(dst)}));
    }
}

TEST(Copy, EmptyCopyIsNotSent) {
    Session session;
    EXPECT_TRUE(session->data().copy(wire::Region(), {8, 8}, wire::Region(), {64, 64}));
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::device_count);
}

TEST(Threads, ConcurrentReadsWritesAndLaunches) {
    Session session;
    std::jthread server([&] {
        while (const auto message = session.peer.next_or_end()) {
            if (message->command == Command::get_tensor) {
                session.peer.reply_bytes(noise(message->as<wire::GetTensorRequest>().size,
                                               static_cast<uint32_t>(message->as<wire::GetTensorRequest>().offset)));
            }
        }
    });
    ggml_tensor *read = session.kit.f32(1 << 16), *written = session.kit.f32(1 << 16);
    ggml_cgraph * graph = session.doubled(session.kit.f32(8), 31);
    const auto reader = [&](uint32_t start) {
        for (uint32_t i = 0; i < 100; ++i) {
            const uint64_t offset = start + i * 4;
            std::vector<std::byte> dest(64 + i * 100);
            session->await(session->data().get(encode_region(*read, GraphKit::handle), range_of(*read, offset, dest.size()),
                                               offset, dest));
            ASSERT_TRUE(dest == noise(dest.size(), static_cast<uint32_t>(offset))) << offset;
        }
    };
    {
        std::jthread one([&] { reader(0); });
        std::jthread two([&] { reader(40'000); });
        std::jthread launcher([&] {
            for (int i = 0; i < 200; ++i) {
                EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
            }
        });
        for (uint32_t i = 0; i < 100; ++i) {
            session.set(written, noise(i * 2000 + 4, i));
        }
    }
    session->synchronize();
    EXPECT_FALSE(session->failed());
    session.connection = fail(Errc::io, "closed");
}

// Programs that build graphs without ggml's scheduler set no uid, and the scheduler sets a new uid whenever it splits a graph
// again.
TEST(NativeGraphs, EqualGraphIsLaunchedBySlot) {
    Session session(native_hello());
    ggml_tensor * source = session.kit.f32(4);
    ggml_tensor * result = session.kit.place(ggml_scale(session.kit.context(), source, 2));
    ggml_tensor * other = session.kit.place(ggml_scale(session.kit.context(), source, 3));
    std::vector<Message> sent;
    {
        std::jthread server([&] {
            while (auto message = session.peer.next_or_end()) {
                sent.push_back(std::move(*message));
            }
        });
        for (const uint64_t uid : {0, 0, 7, 8}) {
            EXPECT_EQ(session.launch(session.kit.graph({result}, uid)), GGML_STATUS_SUCCESS);
        }
        EXPECT_EQ(session.launch(session.kit.graph({other}, 8)), GGML_STATUS_SUCCESS) << "found by its uid";
        EXPECT_EQ(session.launch(session.kit.graph({other}, 0)), GGML_STATUS_SUCCESS);
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0)), GGML_STATUS_SUCCESS);
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0), 1), GGML_STATUS_SUCCESS) << "on another device";
        session->buffers().free({});
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0)), GGML_STATUS_SUCCESS);
        session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(command_names(sent), "GRAPH LAUNCH LAUNCH LAUNCH LAUNCH GRAPH LAUNCH GRAPH FREE_BUFFER GRAPH ");
}

TEST(Replies, InvalidFlagEndsSession) {
    constexpr int64_t weight_elements = 300 * 1024;  // more than FIND's threshold
    {
        Session session;
        session.peer.reply<uint8_t>(2);
        const auto region = encode_region(*session.kit.f32(8), GraphKit::handle);
        session->data().copy(region, {0, 32}, region, {64, 96});
        EXPECT_TRUE(session->failed()) << "COPY_TENSOR";
    }
    {
        Session session;
        const std::vector<std::byte> weights(wire::hash_threshold + 1);
        session.peer.reply<uint8_t>(7);
        session.set(session.kit.f32(wire::hash_threshold / 4 + 1), weights, true);
        EXPECT_TRUE(session->failed()) << "SET_TENSOR_HASH";
    }
    {
        Session session(native_hello());
        session.peer.reply<uint8_t>(3);
        EXPECT_FALSE(session->queries().supports(0, encode_op_query(*session.doubled(session.kit.f32(8), 1)->nodes[0])));
        EXPECT_TRUE(session->failed()) << "SUPPORTS";
    }
    {
        Session session(native_hello());
        session.peer.reply(wire::SessionFacts{.has_cache = 9});
        session.set(session.kit.f32(weight_elements), noise(weight_elements * 4), true);
        EXPECT_TRUE(session->failed()) << "FACTS";
    }
}

// Zeroes instead of a tensor's bytes would be a wrong result.
TEST(Replies, RefusedReadEndsSession) {
    Session session(native_hello());
    std::vector<std::byte> dest(32, std::byte{7});
    session.peer.send(test::bytes_of(uint64_t{2} | uint64_t{3} << wire::reply_kind_shift) +
                      test::bytes_of(std::string_view("no")));
    session->await(session.get(session.kit.f32(8), dest));
    EXPECT_TRUE(session->failed());
}

TEST(Replies, DuplicateHandleIsRefused) {
    Session session;
    for (const bool is_first : {true, false}) {
        session.peer.reply(wire::AllocBufferReply{42, 1024});
        session.peer.reply(uint64_t{0x7000});
        EXPECT_EQ(session->buffers().alloc(0, 1000).has_value(), is_first);
    }
    session->buffers().free({.handle = 42, .base = 0x7000, .size = 1024});
    session.peer.reply(wire::AllocBufferReply{42, 1024});
    session.peer.reply(uint64_t{0x7000});
    EXPECT_TRUE(session->buffers().alloc(0, 1000)) << "the handle is free again";
}

// The devices of a stock server may use a separate address space for each buffer: a graph that overwrites an address in one
// buffer does not overwrite it in another.
TEST(Replies, NoInputIsHeldIfBuffersOverlap) {
    Session session;
    ggml_tensor *used = session.kit.f32(8), *unused = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(used, 31);
    const auto expect_written = [&](uint32_t seed) {
        const Message write = session.peer.next();
        EXPECT_EQ(write.command, Command::set_tensor);
        EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(32, seed));
    };
    session.set(unused, noise(32, 1));
    session.launch(graph);
    expect_written(1);
    session.expect_launch(Command::graph_compute, 31);
    session.set(unused, noise(32, 2));  // held
    for (const uint64_t handle : {1, 2}) {
        session.peer.reply(wire::AllocBufferReply{handle, 1024});
        session.peer.reply(uint64_t{0x1000});
        EXPECT_TRUE(session->buffers().alloc(0, 1000));
        EXPECT_EQ(session.peer.next().command, Command::alloc_buffer);
        EXPECT_EQ(session.peer.next().command, Command::buffer_get_base);
    }
    for (uint32_t token = 3; token < 5; ++token) {
        session.set(unused, noise(32, token));
        session.launch(graph);
    }
    expect_written(2);
    expect_written(3);
    session.expect_launch(Command::graph_recompute, 31);
    expect_written(4);
    session.expect_launch(Command::graph_recompute, 31);
    EXPECT_EQ(session.peer.unread(), 0u);
}

}  // namespace
}  // namespace caravan::client
