// The client's side of the stock dialect against a server that is played by hand.
#include "base/formatted.h"
#include "base/log.h"
#include "client/connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <thread>

#include "support/scripted_session.h"
#include "support/temporary_folder.h"

namespace caravan::client {
namespace {

using test::GraphKit;
using test::Message;
using test::noise;
using test::operator+;
using test::WirePeer;
using wire::Command;

using scripted::Session;

TEST(Handshake, OtherPatchVersionsAndCapabilitiesAreAccepted) {
    wire::HelloAnswer hello{8, 0, 9, 77, {}};
    hello.capabilities[3] = std::byte{5};
    Session session(hello);
    EXPECT_TRUE(session.connection);
}

TEST(Handshake, OtherVersionsAreRefusedAndBothAreNamed) {
    for (const auto & [major, minor] : {std::pair{8, 1}, {7, 0}, {9, 0}, {6, 0}, {5, 1}, {0, 0}, {255, 255}}) {
        Session session(wire::HelloAnswer{static_cast<uint8_t>(major), static_cast<uint8_t>(minor), 2, 0, {}});
        ASSERT_FALSE(session.connection) << major << '.' << minor;
        const Error & error = session.connection.error();
        EXPECT_EQ(error.code, Errc::unsupported);
        EXPECT_TRUE(error.text.contains(formatted("{}.{}.2", major, minor)) && error.text.contains("8.0") &&
                    error.text.contains(session.endpoint))
            << error.text;
    }
}

TEST(Handshake, AnAnswerOfTheWrongSizeIsRefused) {
    for (const size_t size : {0u, 3u, 24u, 29u, 1000u}) {
        Session session([&](WirePeer & peer) {
            peer.next();
            peer.answer_bytes(std::vector<std::byte>(size, std::byte{8}));
        });
        ASSERT_FALSE(session.connection) << size;
        EXPECT_EQ(session.connection.error().code, Errc::protocol);
    }
}

TEST(Handshake, AServerThatHangsUpIsAnError) {
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

TEST(Questions, AreAskedAndAnsweredAsInTheProtocol) {
    Session session;
    ASSERT_TRUE(session.connection);
    session.peer.answer(uint32_t{3});
    EXPECT_EQ(session->device_count().value(), 3u);
    session.peer.answer(uint64_t{64});
    session.peer.answer(UINT64_MAX);
    const auto constants = session->constants(1).value();
    EXPECT_EQ(constants.at(0).alignment, 64u);
    EXPECT_EQ(constants.at(0).max_size, UINT64_MAX);
    session.peer.answer(wire::DeviceMemoryAnswer{5, 6});
    const auto memory = session->memory(0).value();
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

TEST(Buffers, AllocationAsksForTheBaseToo) {
    Session session;
    session.peer.answer(wire::AllocBufferAnswer{42, 1024});
    session.peer.answer(uint64_t{0x7000});
    const auto buffer = session->alloc_buffer(1, 1000);
    ASSERT_TRUE(buffer) << buffer.error().text;
    EXPECT_EQ(buffer->handle, 42u);
    EXPECT_EQ(buffer->base, 0x7000u);
    EXPECT_GE(buffer->size, 1000u);
    EXPECT_EQ(session.peer.next().as<uint64_t>(4), 1000u);
    EXPECT_EQ(session.peer.next().as<uint64_t>(), 42u);
}

TEST(Buffers, ARefusedAllocationIsNoMemoryAndTheSessionGoesOn) {
    Session session;
    session.peer.answer(wire::AllocBufferAnswer{0, 0});
    const auto buffer = session->alloc_buffer(0, uint64_t{1} << 40);
    ASSERT_FALSE(buffer);
    EXPECT_EQ(buffer.error().code, Errc::no_memory);
    EXPECT_FALSE(session->failed());
}

// Addresses that wrap or a buffer smaller than asked for would make every later range a lie.
TEST(Buffers, NonsenseFromTheServerIsRefused) {
    for (const auto & [answer, base] : {std::pair{wire::AllocBufferAnswer{1, 999}, uint64_t{0x7000}},
                                        {wire::AllocBufferAnswer{1, 1000}, uint64_t{0}},
                                        {wire::AllocBufferAnswer{1, UINT64_MAX}, uint64_t{0x7000}},
                                        {wire::AllocBufferAnswer{1, 1000}, UINT64_MAX - 10}}) {
        Session session;
        session.peer.answer(answer);
        session.peer.answer(base);
        const auto buffer = session->alloc_buffer(0, 1000);
        ASSERT_FALSE(buffer);
        EXPECT_EQ(buffer.error().code, Errc::protocol);
    }
}

TEST(Writes, KeepTheirOrderWhateverTheirSize) {
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

TEST(Writes, WaitForSomethingThatCanSeeThem) {
    Session session;
    session.set(session.kit.f32(8), noise(32));
    session->synchronize();
    EXPECT_EQ(session.peer.unread(), 0u);
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::set_tensor);
}

TEST(Writes, ManySmallOnesDoNotCollectForEver) {
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

TEST(Writes, OfNothingAreNotSent) {
    Session session;
    session.set(session.kit.f32(8), {});
    session->memset(wire::Tensor{}, {1, 1}, 0, 0, 7);
    session->set_2d(wire::Tensor{}, {1, 1}, 0, 0, 5, 8, nullptr, 8);
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::device_count);
    EXPECT_EQ(session.get(session.kit.f32(8), {}).number, 0u);
}

TEST(Writes, AnInputThatNoGraphReadsIsSentOnceAndBeforeItIsRead) {
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
    const auto ticket = session->get(encode_region(*unused, GraphKit::handle), range_of(*unused, 28, 4), 28, dest);
    const Message write = session.peer.next();
    EXPECT_EQ(write.command, Command::set_tensor);
    EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(32, 102));
    EXPECT_EQ(+write.as<wire::Tensor>().data, reinterpret_cast<uint64_t>(unused->data));
    EXPECT_EQ(+session.peer.next().as<wire::GetTensorRequest>().offset, 28u);
    session.peer.answer_bytes(noise(4));
    session->await(ticket);
}

TEST(Writes, TwoDimensionalOnesArePacked) {
    Session session;
    const auto data = noise(100);
    session->set_2d(encode_region(*session.kit.f32(64), GraphKit::handle), {0, 1}, 8, 4, 3, 32, data.data(), 10);
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

constexpr size_t ten_mib = 10 * 1024 * 1024;

// The server's side of one weight: was it asked for by hash, and how was it sent?
struct Upload {
    bool asked = false, sent = false;
    int cache_flag = -1;
};

// Plays `count` uploads of `data`; `has`: the answer to the hash.
std::vector<Upload> uploads(Session & session, const std::vector<std::byte> & data, int count, bool is_weight,
                            const std::function<bool(int)> & has) {
    std::vector<Upload> seen;
    std::jthread server([&] {
        for (int i = 0; i < count; ++i) {
            Upload upload;
            Message message = session.peer.next();
            bool had = false;
            if (message.command == Command::set_tensor_hash) {
                upload.asked = true;
                EXPECT_EQ(+message.as<wire::SetTensorHashRequest>().hash, wire::fnv1a(data));
                had = has(i);
                session.peer.answer(static_cast<uint8_t>(had));
            }
            if (!had) {
                if (upload.asked) {
                    message = session.peer.next();
                }
                EXPECT_EQ(message.command, Command::set_tensor);
                EXPECT_TRUE(message.from(sizeof(wire::SetTensorRequest)) == data);
                upload.sent = true;
                upload.cache_flag = message.as<wire::SetTensorRequest>().cache;
            }
            seen.push_back(upload);
        }
        EXPECT_EQ(session.peer.next().command, Command::device_count);
        session.peer.answer(uint32_t{1});
    });
    ggml_tensor * tensor = session.kit.f32(8);
    for (int i = 0; i < count; ++i) {
        session.set(tensor, data, is_weight);
    }
    EXPECT_TRUE(session->device_count());
    server.join();
    return seen;
}

TEST(Weights, OnlyLongOnesAreAskedForByHash) {
    Session session;
    const auto never = [](int) { return false; };
    EXPECT_FALSE(uploads(session, noise(ten_mib), 1, true, never)[0].asked) << "exactly 10 MiB";
    EXPECT_FALSE(uploads(session, noise(ten_mib + 4), 1, false, never)[0].asked) << "no weight";
    const Upload missed = uploads(session, noise(ten_mib + 4), 1, true, never)[0];
    EXPECT_TRUE(missed.asked);
    EXPECT_EQ(missed.cache_flag, 1) << "so that it is there the next time";
}

TEST(Weights, WhatTheServerHasIsNotSent) {
    Session session;
    const auto seen = uploads(session, noise(ten_mib + 4), 2, true, [](int) { return true; });
    EXPECT_TRUE(seen[0].asked && seen[1].asked);
    EXPECT_FALSE(seen[0].sent || seen[1].sent);
}

TEST(Weights, NoMoreHashingAfterEightMissesInARow) {
    Session session;
    const auto seen = uploads(session, noise(ten_mib + 4), 18, true, [](int i) { return i == 5; });
    for (int i = 0; i < 18; ++i) {
        EXPECT_EQ(seen[i].asked, i < 14) << i;  // five misses, one hit, eight misses
        EXPECT_EQ(seen[i].sent, i != 5) << i;
    }
}

TEST(Copy, AnswersWhatTheServerSays) {
    for (const uint8_t done : {1, 0}) {
        Session session;
        const wire::Region src = encode_region(*session.kit.f32(8), GraphKit::handle);
        const wire::Region dst = encode_region(*session.kit.f32(8), GraphKit::handle);
        session.peer.answer(done);
        EXPECT_EQ(session->copy(src, {0, 32}, dst, {64, 96}), done != 0);
        const Message message = session.peer.next();
        EXPECT_EQ(message.command, Command::copy_tensor);
        EXPECT_EQ(message.payload, test::bytes_of(wire::CopyTensorRequest{stock_tensor(src), stock_tensor(dst)}));
    }
}

TEST(Copy, OfNothingIsNotSent) {
    Session session;
    EXPECT_TRUE(session->copy(wire::Region(), {8, 8}, wire::Region(), {64, 64}));
    session.flush();
    EXPECT_EQ(session.peer.next().command, Command::device_count);
}

TEST(Relay, CarriesBytesFromServerToServerWithoutWaiting) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(64), *to = b.kit.f32(64);
    ggml_cgraph * graph = b.doubled(to, 7);
    b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
             encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(graph), GGML_STATUS_SUCCESS);
    const Message read = a.peer.next();
    EXPECT_EQ(read.command, Command::get_tensor);
    EXPECT_EQ(+read.as<wire::GetTensorRequest>().size, 256u);
    EXPECT_EQ(b.peer.unread(), 0u) << "its bytes are not known yet";
    std::vector<std::byte> dest(256);
    const auto ticket = b.get(graph->nodes[0], dest);
    EXPECT_EQ(b.peer.unread(), 0u);

    a.peer.answer_bytes(noise(256));
    b.peer.answer_bytes(noise(256, 2));
    b->await(ticket);
    EXPECT_EQ(dest, noise(256, 2));
    const Message write = b.peer.next();
    EXPECT_EQ(write.command, Command::set_tensor);
    EXPECT_EQ(write.from(sizeof(wire::SetTensorRequest)), noise(256));
    EXPECT_EQ(+write.as<wire::Tensor>().data, reinterpret_cast<uint64_t>(to->data));
    b.expect_launch(Command::graph_compute, 7);
    EXPECT_EQ(b.peer.next().command, Command::get_tensor);
}

TEST(Relay, SeveralInARowKeepTheirOrder) {
    Session a, b;
    std::vector<ggml_tensor *> targets;
    constexpr uint32_t count = 5;
    for (uint32_t i = 0; i < count; ++i) {
        ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
        targets.push_back(to);
        a.peer.answer_bytes(noise(32, i));  // ahead of the question
        b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
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

TEST(Relay, ThereAndBack) {
    Session a, b;
    ggml_tensor *x = a.kit.f32(8), *y = b.kit.f32(8), *z = a.kit.f32(8);
    const auto wired = [](const ggml_tensor * tensor) { return encode_region(*tensor, GraphKit::handle); };
    b->relay(**a.connection, wired(x), range_of(*x), wired(y), range_of(*y));
    a->relay(**b.connection, wired(y), range_of(*y), wired(z), range_of(*z));
    a.peer.answer_bytes(noise(32, 1));
    b.peer.answer_bytes(noise(32, 2));
    a->synchronize();
    b->synchronize();
    EXPECT_EQ(a.peer.next().command, Command::get_tensor);
    EXPECT_EQ(a.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 2));
    EXPECT_EQ(b.peer.next().from(sizeof(wire::SetTensorRequest)), noise(32, 1));
    EXPECT_EQ(b.peer.next().command, Command::get_tensor);
}

TEST(Relay, FromALostServerDoesNotHang) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
             encode_region(*to, GraphKit::handle), range_of(*to));
    a.peer.close();
    b->synchronize();
    EXPECT_TRUE(a->failed());
    EXPECT_FALSE(b->failed());
}

TEST(Relay, ToALostServerDoesNotHang) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b.peer.close();
    for (uint32_t i = 0; i < 3; ++i) {
        a.peer.answer_bytes(noise(32, i));
        b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                 encode_region(*to, GraphKit::handle), range_of(*to));
        b.launch(b.doubled(to, 10 + i));
        b->synchronize();
    }
    a->synchronize();
    EXPECT_FALSE(a->failed());
    EXPECT_FALSE(b->device_count());
    EXPECT_EQ(b.launch(b.doubled(to, 50)), GGML_STATUS_FAILED);
}

// A program that ends in the middle of a pipeline.
TEST(Relay, ASessionMayEndWithOnePending) {
    Session a;
    std::weak_ptr<Connection> gone;
    {
        Session b;
        ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
        a.peer.answer_bytes(noise(32));
        b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                 encode_region(*to, GraphKit::handle), range_of(*to));
        gone = *b.connection;
    }
    EXPECT_TRUE(gone.expired());
    a.peer.answer(uint32_t{1});
    EXPECT_TRUE(a->device_count());
}

const std::vector<std::byte> absent(32, std::byte{0xff});

TEST(Loss, InMidAnswerReadsAsNotANumberAndLaunchesFail) {
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
    session->memset(encode_region(*tensor, GraphKit::handle), range_of(*tensor), 0, 32, 1);
    session->set_2d(encode_region(*tensor, GraphKit::handle), range_of(*tensor), 0, 4, 2, 8, noise(16).data(), 4);
    session->clear_buffer({1, 2, 3}, 0);
    session->free_buffer({1, 2, 3});
    session->synchronize();
    EXPECT_FALSE(session->device_count());
    EXPECT_FALSE(session->memory(0));
    EXPECT_FALSE(session->alloc_buffer(0, 10));
}

// Longer than a connection is trusted without a look at it.
void pass_time() { std::this_thread::sleep_for(milliseconds(3)); }

// Neither sent nor asked for anything since: only a look at the connection can tell.
TEST(Loss, IsKnownBeforeALaunchIsReportedAsSuccessful) {
    Session session;
    ggml_tensor * tensor = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(tensor, 31);
    std::vector<std::byte> dest(32);
    for (int i = 0; i < 3; ++i) {
        session.peer.answer_bytes(noise(32));
        EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
        session->await(session.get(tensor, dest));
    }
    session.peer.close();
    pass_time();
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
}

// A machine that was switched off closes no connection.
TEST(Loss, AfterAPauseAServerIsAskedBeforeALaunchIsReportedAsSuccessful) {
    Session session;
    ggml_tensor * tensor = session.kit.f32(8);
    ggml_cgraph * graph = session.doubled(tensor, 31);
    EXPECT_EQ(session.launch(graph), GGML_STATUS_SUCCESS);
    session.expect_launch(Command::graph_compute, 31);
    std::this_thread::sleep_for(milliseconds(1100));
    std::jthread server([&] {
        EXPECT_EQ(session.peer.next().command, Command::device_count);
        session.peer.close();
    });
    EXPECT_EQ(session.launch(graph), GGML_STATUS_FAILED);
}

TEST(Loss, OfTheSourceOfARelayFailsTheNextLaunchOfItsTarget) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8), *other = b.kit.f32(8);
    const auto relay = [&] {
        b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                 encode_region(*to, GraphKit::handle), range_of(*to));
    };
    a.peer.close();
    std::vector<std::byte> dest(32);
    a->await(a.get(from, dest));
    ASSERT_TRUE(a->failed());
    relay();
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_FAILED);
    EXPECT_EQ(b.launch(b.doubled(other, 11)), GGML_STATUS_SUCCESS) << "it does not read what is missing";
    b->await(b.get(to, dest));
    EXPECT_EQ(dest, absent) << "what the server has there is from before";
    b.set(to, noise(32));
    EXPECT_EQ(b.launch(b.doubled(to, 12)), GGML_STATUS_SUCCESS) << "it is written anew";
}

// The launch behind the relay was reported as successful when the source was lost: its results are no numbers.
TEST(Loss, OfTheSourceOfAPendingRelayMakesResultsAbsentAndFailsTheNextLaunch) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
             encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_SUCCESS);
    a.peer.close();
    std::vector<std::byte> dest(32);
    b.peer.answer_bytes(noise(32));
    b->await(b.get(to, dest));
    EXPECT_EQ(dest, absent);
    EXPECT_EQ(b.launch(b.doubled(to, 11)), GGML_STATUS_FAILED);
}

// Through the program's memory: ggml's own copy between devices, or a file of state.
TEST(Loss, AbsentDataThatIsWrittenToAnotherServerFailsTheLaunchThatReadsIt) {
    Session session;
    ggml_tensor *tensor = session.kit.f32(16), *mask = session.kit.f32(8);
    session.set(tensor, absent);  // a half of it
    EXPECT_EQ(session.launch(session.doubled(tensor, 10)), GGML_STATUS_FAILED);
    EXPECT_EQ(session.launch(session.doubled(tensor, 10)), GGML_STATUS_FAILED) << "it is still there";
    session->clear_buffer({GraphKit::handle, reinterpret_cast<uint64_t>(tensor->data), 1 << 20}, 0);
    EXPECT_EQ(session.launch(session.doubled(tensor, 11)), GGML_STATUS_SUCCESS);
    const std::vector<float> minus_infinity(8, -INFINITY);
    session.set(mask, const_bytes(minus_infinity.data(), 32));
    EXPECT_EQ(session.launch(session.doubled(mask, 12)), GGML_STATUS_SUCCESS);
    ggml_tensor * rows = session.kit.place(ggml_new_tensor_1d(session.kit.context(), GGML_TYPE_I32, 8));
    session.set(rows, absent);
    ggml_tensor * taken = ggml_get_rows(session.kit.context(), session.kit.f32(8, 8), rows);
    EXPECT_EQ(session.launch(session.kit.graph({session.kit.place(taken)}, 13)), GGML_STATUS_SUCCESS) << "-1 is a number";
    ggml_tensor * weight = session.kit.f32(8);
    session.set(weight, absent, true);
    EXPECT_EQ(session.launch(session.doubled(weight, 14)), GGML_STATUS_SUCCESS) << "a file of weights may hold anything";
}

TEST(Loss, AbsentDataIsKnownWhereItWasCopiedUntilSomethingElseIsThere) {
    Session session;
    uint64_t uid = 20;
    const auto launch = [&](ggml_tensor * source) { return session.launch(session.doubled(source, ++uid)); };
    const auto wired = [](const ggml_tensor * tensor) { return encode_region(*tensor, GraphKit::handle); };
    ggml_tensor *tensor = session.kit.f32(8), *copied = session.kit.f32(8), *rows = session.kit.f32(4, 2);
    session.set(tensor, absent);
    session.peer.answer(uint8_t{1});
    EXPECT_TRUE(session->copy(wired(tensor), range_of(*tensor), wired(copied), range_of(*copied)));
    EXPECT_EQ(launch(copied), GGML_STATUS_FAILED);
    std::vector<std::byte> dest(32);
    session->get_2d(wired(copied), range_of(*copied), 0, 16, 2, 16, dest);
    EXPECT_EQ(dest, absent) << "the server is not asked for it";
    session->memset(wired(copied), range_of(*copied), 0, 32, 0);
    EXPECT_EQ(launch(copied), GGML_STATUS_SUCCESS);
    session->set_2d(wired(rows), range_of(*rows), 0, 16, 2, 16, absent.data(), 16);
    EXPECT_EQ(launch(rows), GGML_STATUS_FAILED);
    session->free_buffer({GraphKit::handle, reinterpret_cast<uint64_t>(tensor->data), 1 << 20});
    EXPECT_EQ(launch(rows), GGML_STATUS_SUCCESS) << "another buffer may lie there now";
}

// Its connection is reset: the question fails at once, before the target's launch counts as successful.
TEST(Loss, OfTheSourceWhileARelayAsksItFailsTheNextLaunchOfItsTarget) {
    Session a, b;
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    a.flush();
    a.peer.close();  // with something unread
    b->relay(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
             encode_region(*to, GraphKit::handle), range_of(*to));
    EXPECT_EQ(b.launch(b.doubled(to, 10)), GGML_STATUS_FAILED);
}

TEST(Loss, AnAnswerOfTheWrongSizeEndsTheSession) {
    Session session;
    session.peer.answer(uint64_t{1});  // a device count has four bytes
    const auto count = session->device_count();
    ASSERT_FALSE(count);
    EXPECT_EQ(count.error().code, Errc::protocol);
    EXPECT_TRUE(session->failed());
}

TEST(Threads, ReadersAndWritersTogether) {
    Session session;
    std::jthread server([&] {
        while (const auto message = session.peer.next_or_end()) {
            if (message->command == Command::get_tensor) {
                session.peer.answer_bytes(noise(message->as<wire::GetTensorRequest>().size,
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
            session->await(session->get(encode_region(*read, GraphKit::handle), range_of(*read, offset, dest.size()),
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

wire::HelloAnswer native_hello() {
    auto hello = scripted::good_hello;
    wire::Extension extension;
    extension.features = wire::feature_native;
    std::memcpy(hello.capabilities, &extension, sizeof extension);
    return hello;
}

std::string names(const std::vector<Message> & messages) {
    std::string out;
    for (const Message & message : messages) {
        out += formatted("{} ", wire::span_name(static_cast<uint8_t>(message.command)));
    }
    return out;
}

// Two native servers, the second of which receives from the first over a link.
struct Linked {
    void transfer() {
        b.peer.answer(++token);
        a.peer.answer(uint8_t{0});  // over TCP
        b->transfer(**a.connection, encode_region(*from, GraphKit::handle), range_of(*from),
                    encode_region(*to, GraphKit::handle), range_of(*to));
    }
    // b's launch has failed, which it reports before the next answer.
    void fail_and_read() {
        b.peer.send(test::bytes_of(uint64_t{4} | uint64_t{static_cast<uint8_t>(wire::AnswerKind::launch_failed)}
                                                     << wire::answer_kind_shift) +
                    test::bytes_of(std::string_view("link")));
        read();
    }
    void read() {
        std::vector<std::byte> dest(32);
        b.peer.answer_bytes(noise(32));
        b->await(b.get(to, dest));
        EXPECT_EQ(dest, absent);
    }
    ggml_status launch() { return b.launch(b.doubled(to, token)); }
    // What a server was sent, when its session has ended.
    static std::string sent_to(Session & session) {
        session.connection = fail(Errc::io, "closed");
        std::vector<Message> all;
        while (auto message = session.peer.next_or_end()) {
            all.push_back(std::move(*message));
        }
        return names(all);
    }

    Session a{native_hello()}, b{native_hello()};
    ggml_tensor *from = a.kit.f32(8), *to = b.kit.f32(8);
    uint64_t token = 5;
};

TEST(Loss, AbsentDataIsNotSentOverALink) {
    Linked servers;
    servers.a.set(servers.from, absent);
    servers.transfer();
    EXPECT_EQ(servers.launch(), GGML_STATUS_FAILED);
    EXPECT_EQ(servers.sent_to(servers.b), "INVITE ") << "nothing comes that it should take";
    EXPECT_FALSE(servers.sent_to(servers.a).contains("PUSH"));
}

// The server at the other end of a link may be gone, which nobody else would notice: each failure is looked into once, and
// the links are made anew.
TEST(Loss, OfTheSourceOfALinkIsLookedForWhenALaunchFails) {
    Linked servers;
    servers.transfer();
    servers.a.peer.answer(uint32_t{1});
    servers.fail_and_read();  // looks
    servers.read();           // has looked
    servers.a.peer.answer(uint32_t{1});
    EXPECT_EQ(servers.launch(), GGML_STATUS_FAILED);  // looks
    servers.transfer();
    servers.a.peer.answer(uint32_t{1});
    servers.fail_and_read();  // looks: this is another failure
    EXPECT_FALSE(servers.b->failed()) << "it may report the failure of a TAKE";
    EXPECT_EQ(servers.sent_to(servers.a), "CONNECT DECLARE PUSH DEVICE_COUNT DEVICE_COUNT CONNECT PUSH DEVICE_COUNT ");
    EXPECT_EQ(servers.sent_to(servers.b), "INVITE DECLARE TAKE READ READ INVITE TAKE READ ");
}

// Of a session that is recorded (GGML_RPC_STATS is read once, so in a process of its own), to the server's `spans`.
void ask_for_records(const std::function<void(WirePeer &)> & spans) {
    ::setenv("GGML_RPC_STATS", "/dev/null", 1);
    ::setenv("GGML_RPC_ON_LOSS", "exit", 1);
    ::alarm(30);
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    Session session([](WirePeer & peer) {
        peer.next();
        peer.answer(native_hello());
        for (int i = 0; i < 16; ++i) {
            peer.answer(uint64_t{0});  // its clock
        }
    });
    std::jthread server([&] {
        while (const auto message = session.peer.next_or_end()) {
            if (message->command == static_cast<Command>(wire::NativeCommand::spans)) {
                spans(session.peer);
            }
        }
    });
    session.connection = fail(Errc::io, "closed");
    std::fprintf(stderr, "ended\n");
    ::_exit(0);
}

class Records : public testing::Test {
protected:
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(Records, ThatAServerSendsWithoutEndAreNotAllTaken) {
    EXPECT_EXIT(ask_for_records([](WirePeer & peer) {
                    peer.answer(wire::SpansAnswer{.count = wire::spans_per_answer, .spans = {}});
                }),
                testing::ExitedWithCode(0), "ended");
}

TEST_F(Records, ThatCannotBeAreNotTaken) {
    EXPECT_EXIT(ask_for_records([](WirePeer & peer) { peer.answer(wire::SpansAnswer{.count = 1 << 20, .spans = {}}); }),
                testing::ExitedWithCode(0), "the rest of what it recorded is missing");
}

// The program has all that it wanted: it does not end with GGML_RPC_ON_LOSS's code.
TEST_F(Records, MayBeLost) {
    EXPECT_EXIT(ask_for_records([](WirePeer & peer) { peer.close(); }), testing::ExitedWithCode(0), "ended");
}

// A file of weights, mapped as a program maps its model, and a native server that is asked for them.
struct Loading {
    static constexpr int64_t count = 300 * 1024;  // elements of each, more than FIND's threshold
    static constexpr size_t size = count * 4;

    Loading() {
        ::setenv("LLAMA_CACHE", folder().path().c_str(), 1);  // before KnownDigests looks at it
        const auto bytes = noise(3 * size);
        test::write_file(file(), test::text_of(bytes));
        const UniqueFd fd(::open(file().c_str(), O_RDONLY));
        void * memory = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, fd.get(), 0);
        EXPECT_NE(memory, MAP_FAILED);
        mapped = const_bytes(memory, bytes.size());
        session.peer.answer(wire::SessionFacts{.has_cache = 1});
    }
    ~Loading() { ::munmap(const_cast<std::byte *>(mapped.data()), mapped.size()); }

    static const test::TemporaryFolder & folder() {
        static const test::TemporaryFolder only;
        return only;
    }
    static std::filesystem::path file() { return folder() / "model.gguf"; }

    ConstBytes part(size_t i) const { return mapped.subspan(i * size, size); }
    void set(size_t i) { session.set(tensors[i], part(i), true); }
    // Plays the server until the client leaves: `found` has the answers to FIND, none where it was given before.
    std::vector<Message> serve(const std::vector<std::optional<uint8_t>> & found) {
        std::vector<Message> all;
        size_t asked = 0;
        while (auto message = session.peer.next_or_end()) {
            if (message->command == static_cast<Command>(wire::NativeCommand::find)) {
                if (const auto answer = found.at(asked++)) {
                    session.peer.answer(*answer);
                }
            } else if (message->command == static_cast<Command>(wire::NativeCommand::read)) {
                session.peer.answer_bytes(std::vector<std::byte>(16, std::byte{7}));
            }
            all.push_back(std::move(*message));
        }
        return all;
    }

    Session session{native_hello()};
    ggml_tensor * tensors[3] = {session.kit.f32(count), session.kit.f32(count), session.kit.f32(count)};
    ConstBytes mapped;
};

// Programs that build their graphs without ggml's scheduler give them no uid, and the scheduler gives a new uid to a
// graph that it splits again.
TEST(NativeGraphs, EqualGraphIsLaunchedNotSentAgain) {
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
        EXPECT_EQ(session.launch(session.kit.graph({other}, 8)), GGML_STATUS_SUCCESS) << "known by its uid, not looked at";
        EXPECT_EQ(session.launch(session.kit.graph({other}, 0)), GGML_STATUS_SUCCESS);
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0)), GGML_STATUS_SUCCESS);
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0), 1), GGML_STATUS_SUCCESS) << "on another device";
        session->free_buffer({});
        EXPECT_EQ(session.launch(session.kit.graph({result}, 0)), GGML_STATUS_SUCCESS);
        session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(names(sent), "GRAPH LAUNCH LAUNCH LAUNCH LAUNCH GRAPH LAUNCH GRAPH FREE_BUFFER GRAPH ");
}

TEST(NativeGraphs, OneThatIsLaunchedAgainOutlivesThoseThatAreNot) {
    Session session(native_hello());
    std::vector<Message> sent;
    {
        std::jthread server([&] {
            while (auto message = session.peer.next_or_end()) {
                sent.push_back(std::move(*message));
            }
        });
        ggml_tensor * source = session.kit.f32(4);
        ggml_cgraph * kept = session.doubled(source, 1);
        for (uint64_t uid = 2; uid < 2 + wire::max_graph_slots; ++uid) {
            EXPECT_EQ(session.launch(kept), GGML_STATUS_SUCCESS);
            EXPECT_EQ(session.launch(session.doubled(source, uid)), GGML_STATUS_SUCCESS);
        }
        EXPECT_EQ(session.launch(kept), GGML_STATUS_SUCCESS);
        session.connection = fail(Errc::io, "closed");
    }
    ASSERT_EQ(sent.size(), 2u * wire::max_graph_slots + 1);
    EXPECT_EQ(sent.back().command, static_cast<Command>(wire::NativeCommand::launch));
}

TEST(Replies, AFlagThatIsNeitherZeroNorOneEndsTheSession) {
    {
        Session session;
        session.peer.answer<uint8_t>(2);
        const auto region = encode_region(*session.kit.f32(8), GraphKit::handle);
        session->copy(region, {0, 32}, region, {64, 96});
        EXPECT_TRUE(session->failed()) << "COPY_TENSOR";
    }
    {
        Session session;
        const std::vector<std::byte> weights(wire::hash_threshold + 1);
        session.peer.answer<uint8_t>(7);
        session.set(session.kit.f32(wire::hash_threshold / 4 + 1), weights, true);
        EXPECT_TRUE(session->failed()) << "SET_TENSOR_HASH";
    }
    {
        Loading loading;
        loading.session.peer.answer<uint8_t>(255);
        loading.set(0);
        EXPECT_TRUE(loading.session->failed()) << "FIND";
    }
    {
        Session session(native_hello());
        session.peer.answer<uint8_t>(3);
        EXPECT_FALSE(session->supports(0, encode_question(*session.doubled(session.kit.f32(8), 1)->nodes[0])));
        EXPECT_TRUE(session->failed()) << "SUPPORTS";
    }
    {
        Session session(native_hello());
        session.peer.answer(wire::SessionFacts{.has_cache = 9});
        session.set(session.kit.f32(Loading::count), noise(Loading::size), true);
        EXPECT_TRUE(session->failed()) << "FACTS";
    }
}

// Zeroes in the place of a tensor's bytes would be a wrong result.
TEST(Replies, ARefusedReadEndsTheSession) {
    Session session(native_hello());
    std::vector<std::byte> dest(32, std::byte{7});
    session.peer.send(test::bytes_of(uint64_t{2} | uint64_t{3} << wire::answer_kind_shift) +
                      test::bytes_of(std::string_view("no")));
    session->await(session.get(session.kit.f32(8), dest));
    EXPECT_TRUE(session->failed());
}

TEST(Replies, TwoBuffersDoNotHaveOneHandle) {
    Session session;
    for (const bool is_first : {true, false}) {
        session.peer.answer(wire::AllocBufferAnswer{42, 1024});
        session.peer.answer(uint64_t{0x7000});
        EXPECT_EQ(session->alloc_buffer(0, 1000).has_value(), is_first);
    }
    session->free_buffer({.handle = 42, .base = 0x7000, .size = 1024});
    session.peer.answer(wire::AllocBufferAnswer{42, 1024});
    session.peer.answer(uint64_t{0x7000});
    EXPECT_TRUE(session->alloc_buffer(0, 1000)) << "free again";
}

// A stock server's device may have an address space of its own for each buffer: then a graph that overwrites an address
// says nothing of the other buffers that have it too.
TEST(Replies, NoInputIsHeldBackWhereTwoBuffersHaveTheSameAddresses) {
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
        session.peer.answer(wire::AllocBufferAnswer{handle, 1024});
        session.peer.answer(uint64_t{0x1000});
        EXPECT_TRUE(session->alloc_buffer(0, 1000));
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

TEST(Weights, AfterAFindTheNextIsNotWaitedForAndMayYetHaveToBeSent) {
    Loading loading;
    loading.session.peer.answer<uint8_t>(1);
    for (size_t i = 0; i < 3; ++i) {
        loading.set(i);  // only the first has its answer
    }
    std::vector<Message> heard;
    std::vector<std::byte> dest(16);
    {
        std::jthread server([&] { heard = loading.serve({std::nullopt, 1, 0}); });
        loading.session->await(loading.session.get(loading.tensors[0], dest));
        EXPECT_FALSE(loading.session->failed());
        loading.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(dest, std::vector<std::byte>(16, std::byte{7}));
    ASSERT_EQ(names(heard), "FACTS DECLARE FIND DECLARE FIND DECLARE FIND WRITE READ ");
    const auto write = heard[7].as<wire::WriteRequest>();
    EXPECT_EQ(+write.slot, 2);
    EXPECT_EQ(+write.keep, 1);
    EXPECT_TRUE(std::ranges::equal(heard[7].from(sizeof write), loading.part(2)));
}

// As whisper.cpp's, which fills its buffers before it marks them.
TEST(Weights, CountIfTheirBufferIsMarkedBeforeTheFirstLaunch) {
    static std::vector<std::string> logged;
    for (const bool is_marked : {true, false}) {
        logged.clear();
        Session session;
        session.peer.answer(wire::AllocBufferAnswer{GraphKit::handle, 4096});
        session.peer.answer(GraphKit::handle);
        const auto buffer = session->alloc_buffer(0, 4096);
        ASSERT_TRUE(buffer);
        ggml_tensor *one = session.kit.f32(256), *other = session.kit.f32(256);
        session.set(one, noise(1024));
        session.set(other, noise(1024));
        EXPECT_TRUE(session->has_unmarked_writes());
        set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
        if (is_marked) {
            session->mark_as_weights(*buffer);
            session->mark_as_weights(*buffer);
        }
        session.launch(session.doubled(one, 31));
        set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
        EXPECT_FALSE(session->has_unmarked_writes());
        ASSERT_EQ(logged.size(), is_marked ? 1u : 0u);
        EXPECT_TRUE(!is_marked || logged[0].contains(": 2 KiB of weights in ")) << logged[0];
    }
}

// A question takes no time, and its answer may be no.
TEST(Weights, AreCountedWhenTheServerHasAnswered) {
    static std::vector<std::string> logged;
    logged.clear();
    Loading loading;
    loading.session.peer.answer<uint8_t>(1);
    set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
    for (size_t i = 0; i < 3; ++i) {
        loading.set(i);
    }
    std::vector<std::byte> dest(16);
    {
        std::jthread server([&] {
            std::this_thread::sleep_for(milliseconds(200));  // the server reads its disk
            loading.serve({std::nullopt, 1, 0});
        });
        loading.session->await(loading.session.get(loading.tensors[0], dest));
        loading.session.connection = fail(Errc::io, "closed");
    }
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    const auto line = std::ranges::find_if(logged, [](const std::string & each) { return each.contains("of weights"); });
    ASSERT_NE(line, logged.end());
    EXPECT_TRUE(line->contains("3.5 MiB of weights in")) << *line;
    EXPECT_FALSE(line->contains(" in 0.0")) << *line;
    EXPECT_TRUE(line->contains(", 67 % from its cache")) << *line;
}

TEST(Weights, OfALostSessionAreNotReportedAsLoaded) {
    static std::vector<std::string> logged;
    logged.clear();
    {
        Session session;
        ggml_tensor * tensor = session.kit.f32(8);
        session.set(tensor, noise(32), true);
        session.peer.close();
        set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
        EXPECT_FALSE(session->device_count());
    }
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    ASSERT_EQ(logged.size(), 1u);
    EXPECT_TRUE(logged[0].contains("is lost")) << logged[0];
}

TEST(Weights, AFileThatChangedWhileItWasLoadedEndsTheSession) {
    Loading loading;
    loading.session.peer.answer<uint8_t>(1);
    loading.set(0);
    loading.set(1);
    std::filesystem::remove(loading.file());
    std::vector<std::byte> dest(16, std::byte{1});
    {
        std::jthread server([&] { loading.serve({std::nullopt, 0}); });
        loading.session->await(loading.session.get(loading.tensors[0], dest));
        EXPECT_TRUE(loading.session->failed());
        loading.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(dest, std::vector<std::byte>(16, std::byte{0xff})) << "as of any lost server";
}

// A cold server costs a question for each of the first weights, and no bytes are read twice.
TEST(Weights, AfterAMissTheNextIsWaitedFor) {
    Loading loading;
    std::vector<Message> heard;
    {
        std::jthread server([&] { heard = loading.serve({0, 1, 1}); });
        for (size_t i = 0; i < 3; ++i) {
            loading.set(i);
        }
        loading.session->synchronize();
        EXPECT_FALSE(loading.session->failed());
        loading.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(names(heard), "FACTS DECLARE FIND WRITE DECLARE FIND DECLARE FIND ");
}

}  // namespace
}  // namespace caravan::client
