// Hostile and broken clients of a session.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/formatted.h"
#include "support/session_client.h"
#include "wire/extension.h"

namespace caravan::server {
namespace {

using test::BufferClient;
using test::SessionClient;
using test::bytes_of;
using test::f32_tensor;
using test::graph_payload;
using test::message;
using test::node_of;
using test::noise;
using test::wire_tensor;
using test::operator+;
using wire::Command;

// Each attack must end its session with an error other than Errc::closed, and without a reply.
class HostileSession : public testing::Test {
protected:
    static void expect_end(const char * what, const std::function<void(BufferClient &)> & attack) {
        SCOPED_TRACE(what);
        BufferClient client;
        attack(client);
        EXPECT_FALSE(client.peer.receive_reply()) << "the server replied";
        EXPECT_NE(client.end().code, Errc::closed);
        EXPECT_FALSE(client.end().text.empty());
    }
};

TEST_F(HostileSession, Framing) {
    for (const int command : {23, 24, 77, 200, 255}) {
        expect_end("unknown command", [&](auto & c) { c.peer.request(static_cast<Command>(command)); });
    }
    expect_end("second HELLO", [](auto & c) { c.peer.ask(Command::hello, wire::HelloRequest{}); });
    expect_end("COMM_ALLREDUCE", [](auto & c) { c.peer.request(Command::comm_allreduce, std::vector<std::byte>(300)); });
    expect_end("COMM_FREE", [](auto & c) { c.peer.request(Command::comm_free, std::vector<std::byte>(4)); });
    for (int command = 0; command <= 22; ++command) {
        const auto known = static_cast<Command>(command);
        const wire::PayloadBounds bounds = wire::payload_bounds(known);
        for (const uint64_t size : {bounds.low - 1, bounds.high + 1, uint64_t{1} << 45, uint64_t{1} << 63, UINT64_MAX}) {
            if (size >= bounds.low && size <= bounds.high) {
                continue;  // SET_TENSOR has its own test below
            }
            expect_end(wire::command_name(known), [&](auto & c) { c.peer.send(bytes_of(wire::RequestHeader{known, size})); });
        }
    }
}

TEST_F(HostileSession, SetTensor) {
    for (const uint64_t lie : {uint64_t{17}, uint64_t{4097}, uint64_t{1} << 45, uint64_t{1} << 63, UINT64_MAX - 305}) {
        expect_end("length", [&](auto & c) {
            c.peer.send(bytes_of(wire::RequestHeader{Command::set_tensor, 305 + lie}) +
                        bytes_of(wire::SetTensorRequest{c.f32(1, 0), 0, 0}) + noise(16));
        });
    }
    expect_end("beyond the tensor, inside the buffer", [](auto & c) { c.set(c.f32(1, 0), noise(20)); });
    expect_end("offset beyond the tensor", [](auto & c) { c.set(c.f32(1, 0), noise(4), 16); });
    expect_end("offset that wraps", [](auto & c) { c.set(c.f32(1, 0), noise(4), UINT64_MAX - 1); });
    expect_end("tensor beyond the buffer", [](auto & c) { c.set(c.f32(1, 4088), noise(4)); });
    expect_end("no buffer", [](auto & c) { auto t = c.f32(1, 0); t.buffer = 0; c.set(t, noise(4)); });
    expect_end("no buffer and no data", [](auto & c) { auto t = c.f32(1, 0); t.buffer = t.data = 0; c.set(t, noise(4)); });
    expect_end("unknown buffer", [](auto & c) { auto t = c.f32(1, 0); t.buffer += 1; c.set(t, noise(4)); });
    expect_end("empty tensor", [](auto & c) { auto t = c.f32(1, 0); t.ne[0] = 0; c.set(t, noise(4)); });
    for (const uint32_t type : {4u, 5u, 31u, 36u, 255u, UINT32_MAX}) {
        expect_end("type", [&](auto & c) { auto t = c.f32(1, 0); t.type = type; c.set(t, noise(4)); });
    }
}

TEST_F(HostileSession, GetTensor) {
    const auto get = [](BufferClient & c, const wire::Tensor & tensor, uint64_t offset, uint64_t size) {
        c.peer.ask(Command::get_tensor, wire::GetTensorRequest{tensor, offset, size});
    };
    expect_end("beyond the tensor, inside the buffer", [&](auto & c) { get(c, c.f32(1, 0), 0, 17); });
    expect_end("beyond the buffer", [&](auto & c) { get(c, c.f32(1, 4080), 0, 17); });
    expect_end("huge", [&](auto & c) { get(c, c.f32(1, 0), 0, UINT64_MAX); });
    expect_end("wraps", [&](auto & c) { get(c, c.f32(1, 0), UINT64_MAX, 2); });
    expect_end("an address of the server process", [&](auto & c) {
        auto t = c.f32(1, 0);
        t.data = 0x400000;
        get(c, t, 0, 16);
    });
    expect_end("empty tensor", [&](auto & c) { auto t = c.f32(1, 0); t.ne[1] = 0; get(c, t, 0, 16); });
    expect_end("ne overflow", [&](auto & c) { auto t = c.f32(1, 0); std::fill_n(t.ne, 4, UINT32_MAX); get(c, t, 0, 16); });
    expect_end("part of a block", [&](auto & c) {
        auto t = wire_tensor(1, GGML_TYPE_Q8_0, {32, 1, 1, 1}, c.buffer, c.base);
        t.ne[0] = 33;
        get(c, t, 0, 16);
    });
    expect_end("after FREE_BUFFER", [&](auto & c) {
        c.peer.ask(Command::free_buffer, wire::BufferRequest{c.buffer});
        get(c, c.f32(1, 0), 0, 16);
    });
}

TEST_F(HostileSession, InvalidRowSizes) {
    constexpr uint64_t max = UINT64_MAX;
    const std::tuple<uint64_t, uint64_t, uint64_t, uint64_t> forms[] = {
        // offset, size, copies, stride of a tensor of 1024 bytes
        {0, 1u << 31, uint64_t{1} << 33, 0}, {0, 4, max, 1},     {0, max, 2, 1},        {0, 4, 2, max},
        {0, 4, 2, 1021},                     {1021, 4, 1, 0},    {max, 4, 1, 0},        {0, 1025, 1, 0},
        {0, 4, uint64_t{1} << 62, 0},        {0, 1, max, 0},     {0, uint64_t{1} << 63, 2, 0},
        {0, 16, 1000, 0},                    {8, 1024, 1, 8},    {0, 2, 3, max / 2 + 1},
    };
    for (const auto & [offset, size, copies, stride] : forms) {
        const wire::Tensor2dRequest request{{}, offset, size, copies, stride};
        SCOPED_TRACE(formatted("{} {} {} {}", offset, size, copies, stride));
        const auto about = [&](BufferClient & c) {
            auto out = request;
            out.tensor = c.f32(1, 0, 256);
            return bytes_of(out);
        };
        expect_end("get", [&](auto & c) { c.peer.request(Command::get_tensor_2d, about(c)); });
        if (!(size == 16 && copies == 1000)) {  // overlapping rows are harmless to write
            expect_end("set with short payload",
                       [&](auto & c) { c.peer.request(Command::set_tensor_2d, about(c) + noise(8)); });
        }
        if (size * copies != 0 && size * copies < 100'000 && !(size == 16 && copies == 1000)) {
            expect_end("set with full payload", [&](auto & c) {
                c.peer.request(Command::set_tensor_2d, about(c) + noise(size * copies));
            });
        }
    }
}

TEST_F(HostileSession, RowsDoNotMatchPayload) {
    for (const size_t payload : {0, 4, 7, 9, 12, 4096}) {
        expect_end("two rows of 4 bytes", [&](auto & c) {
            c.peer.request(Command::set_tensor_2d,
                           bytes_of(wire::Tensor2dRequest{c.f32(1, 0, 256), 0, 4, 2, 16}) + noise(payload));
        });
    }
}

TEST_F(HostileSession, ErrorNamesTheCommand) {
    const auto reason = [](const std::function<void(BufferClient &)> & attack) {
        BufferClient client;
        attack(client);
        return client.end().text;
    };
    EXPECT_EQ(reason([](auto & c) { c.peer.ask(Command::free_buffer, uint64_t{77}); }).find("FREE_BUFFER: "), 0u);
    EXPECT_EQ(reason([](auto & c) { c.peer.request(static_cast<Command>(200)); }), "command 200 does not exist");
    EXPECT_EQ(reason([](auto & c) { c.peer.request(wire::command_rdma_offer, std::vector<std::byte>(41)); }),
              "RDMA_OFFER: invalid payload size of 41 bytes, instead of 40");
    EXPECT_EQ(reason([](auto & c) { c.peer.request(wire::command_rdma_rails, std::vector<std::byte>(164)); }),
              "RDMA_RAILS: only before a session, and only if the server uses RDMA");
}

TEST_F(HostileSession, OtherRegions) {
    expect_end("MEMSET beyond", [](auto & c) {
        c.peer.ask(Command::memset_tensor, wire::MemsetTensorRequest{c.f32(1, 0), 1, 16, 0});
    });
    expect_end("MEMSET huge", [](auto & c) {
        c.peer.ask(Command::memset_tensor, wire::MemsetTensorRequest{c.f32(1, 0), 0, UINT64_MAX, 0});
    });
    expect_end("INIT outside", [](auto & c) { c.peer.ask(Command::init_tensor, c.f32(1, 4090)); });
    expect_end("INIT without a buffer", [](auto & c) {
        auto t = c.f32(1, 0);
        t.buffer = t.data = 0;
        c.peer.ask(Command::init_tensor, t);
    });
    expect_end("BASE", [](auto & c) { c.peer.ask(Command::buffer_get_base, uint64_t{77}); });
    expect_end("CLEAR", [](auto & c) { c.peer.ask(Command::buffer_clear, wire::BufferClearRequest{77, 0}); });
    expect_end("FREE", [](auto & c) { c.peer.ask(Command::free_buffer, uint64_t{77}); });
    expect_end("double FREE", [](auto & c) {
        c.peer.ask(Command::free_buffer, c.buffer);
        c.peer.ask(Command::free_buffer, c.buffer);
    });
    expect_end("HASH of an invalid tensor misses; then an unknown command", [](auto & c) {
        auto t = c.f32(1, 0);
        t.type = 255;
        c.peer.ask(Command::set_tensor_hash, wire::SetTensorHashRequest{t, UINT64_MAX, 1});
        EXPECT_EQ(c.peer.template receive_reply_as<uint8_t>(), 0);
        c.peer.request(static_cast<Command>(23));
    });
    for (const Command command : {Command::get_alignment, Command::get_max_size, Command::get_device_memory}) {
        expect_end("device", [&](auto & c) { c.peer.ask(command, uint32_t{1}); });
    }
    expect_end("ALLOC on an unknown device",
               [](auto & c) { c.peer.ask(Command::alloc_buffer, wire::AllocBufferRequest{9, 64}); });
}

TEST_F(HostileSession, CopyBetweenDifferentShapes) {
    const auto copy = [](BufferClient & c, const wire::Tensor & src, const wire::Tensor & dst) {
        c.peer.ask(Command::copy_tensor, wire::CopyTensorRequest{src, dst});
    };
    expect_end("larger source", [&](auto & c) { copy(c, c.f32(1, 0, 512), c.f32(2, 2048, 4)); });
    expect_end("other shape, same bytes", [&](auto & c) { copy(c, c.f32(1, 0, 8, 2), c.f32(2, 2048, 4, 4)); });
    expect_end("other type", [&](auto & c) {
        copy(c, c.f32(1, 0), wire_tensor(2, GGML_TYPE_I32, {4, 1, 1, 1}, c.buffer, c.base + 2048));
    });
    expect_end("other strides", [&](auto & c) { auto t = c.f32(2, 2048, 4, 2); t.nb[1] = 64; copy(c, c.f32(1, 0, 4, 2), t); });
    expect_end("empty source", [&](auto & c) { copy(c, c.f32(1, 0, 0), c.f32(2, 2048)); });
    expect_end("empty destination", [&](auto & c) { copy(c, c.f32(1, 0), c.f32(2, 2048, 0)); });
    expect_end("source outside", [&](auto & c) { copy(c, c.f32(1, 4090), c.f32(2, 0)); });
    expect_end("destination outside", [&](auto & c) { copy(c, c.f32(1, 0), c.f32(2, 4090)); });
    expect_end("source without a buffer", [&](auto & c) {
        auto t = c.f32(1, 0);
        t.buffer = t.data = 0;
        copy(c, t, c.f32(2, 64));
    });
    expect_end("destination without a buffer", [&](auto & c) {
        auto t = c.f32(1, 0);
        t.buffer = t.data = 0;
        copy(c, c.f32(2, 64), t);
    });
}

TEST_F(HostileSession, Graphs) {
    expect_end("unknown uid", [](auto & c) { c.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5}); });
    expect_end("uid 0", [](auto & c) {
        c.peer.request(Command::graph_compute, graph_payload(0, 0, {3}, c.sum()));
        c.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 0});
    });
    expect_end("RECOMPUTE on an unknown device",
               [](auto & c) { c.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{1, 5}); });
    expect_end("COMPUTE on an unknown device",
               [](auto & c) { c.peer.request(Command::graph_compute, graph_payload(1, 5, {3}, c.sum())); });
    expect_end("FREE, then RECOMPUTE", [](auto & c) {
        c.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, c.sum()));
        c.peer.ask(Command::free_buffer, c.buffer);
        c.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5});
    });
    expect_end("FREE, ALLOC, then RECOMPUTE", [](auto & c) {
        c.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, c.sum()));
        c.peer.ask(Command::free_buffer, c.buffer);
        c.alloc(4096);
        c.peer.ask(Command::graph_recompute, wire::GraphRecomputeRequest{0, 5});
    });
    expect_end("unknown node", [](auto & c) { c.peer.request(Command::graph_compute, graph_payload(0, 5, {4}, c.sum())); });
    expect_end("op", [](auto & c) {
        auto tensors = c.sum();
        tensors[2].op = 999;
        c.peer.request(Command::graph_compute, graph_payload(0, 5, {3}, tensors));
    });
    for (const size_t length : {20u, 27u, 28u, 300u, 900u}) {
        expect_end("truncated", [&](auto & c) {
            auto payload = graph_payload(0, 5, {3}, c.sum());
            payload.resize(length);
            c.peer.request(Command::graph_compute, payload);
        });
    }
}

TEST_F(HostileSession, AllocSizes) {
    const auto ask = [](BufferClient & c, const std::function<void(wire::GetAllocSizeRequest &)> & spoil) {
        wire::GetAllocSizeRequest request{};
        request.tensor = node_of(f32_tensor(1, {8, 4, 1, 1}, 0, 0), GGML_OP_MUL_MAT, {2, 3});
        request.src[0] = f32_tensor(2, {16, 8, 1, 1}, 0, 0);
        request.src[1] = f32_tensor(3, {16, 4, 1, 1}, 0, 0);
        spoil(request);
        c.peer.ask(Command::get_alloc_size, request);
    };
    expect_end("device", [&](auto & c) { ask(c, [](auto & r) { r.device = 7; }); });
    expect_end("type", [&](auto & c) { ask(c, [](auto & r) { r.tensor.type = 4; }); });
    expect_end("type of a source", [&](auto & c) { ask(c, [](auto & r) { r.src[1].type = 255; }); });
    expect_end("op", [&](auto & c) { ask(c, [](auto & r) { r.tensor.op = 999; }); });
    expect_end("shape", [&](auto & c) { ask(c, [](auto & r) { std::fill_n(r.tensor.ne, 4, UINT32_MAX); }); });
}

TEST_F(HostileSession, DisconnectWithinCommandCountsAsLeaving) {
    BufferClient shape;
    const std::vector<std::byte> messages[] = {
        message(Command::alloc_buffer, std::vector<std::byte>(12)),
        message(Command::set_tensor, bytes_of(wire::SetTensorRequest{shape.f32(1, 0), 0, 0}) + noise(16)),
        message(Command::graph_compute, graph_payload(0, 5, {3}, shape.sum())),
    };
    for (const auto & whole : messages) {
        for (size_t length = 0; length < whole.size(); length += whole.size() / 7 + 1) {
            BufferClient client;
            client.peer.send(ConstBytes(whole).first(length));
            EXPECT_EQ(client.leave().code, Errc::closed) << length;
        }
    }
}

TEST_F(HostileSession, DisconnectBeforeReplyCountsAsLeaving) {
    SessionClient client;
    const uint64_t buffer = client.alloc(32 << 20);
    client.peer.ask(Command::get_tensor,
                    wire::GetTensorRequest{f32_tensor(1, {8 << 20, 1, 1, 1}, buffer, client.base), 0, 32 << 20});
    client.peer.close();
    const Errc code = client.end().code;
    EXPECT_TRUE(code == Errc::closed || code == Errc::reset);
}

}  // namespace
}  // namespace caravan::server
