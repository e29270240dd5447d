// Weights: lookups by hash or digest, uploads, and what counts as loaded.
#include "client/session/connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdio>
#include <functional>
#include <thread>

#include "base/log.h"
#include "platform/unique_fd.h"
#include "support/scripted_session.h"
#include "support/temporary_folder.h"

namespace caravan::client {
namespace {

using scripted::Session;
using scripted::command_names;
using scripted::native_hello;
using test::GraphKit;
using test::Message;
using test::noise;
using wire::Command;

constexpr size_t ten_mib = 10 * 1024 * 1024;

// One weight as the server received it.
struct Upload {
    bool looked_up = false, sent = false;
    int cache_flag = -1;
};

// Plays `count` uploads of `data`. `has` returns the reply to the hash.
std::vector<Upload> uploads(Session & session, const std::vector<std::byte> & data, int count, bool is_weight,
                            const std::function<bool(int)> & has) {
    std::vector<Upload> seen;
    std::jthread server([&] {
        for (int i = 0; i < count; ++i) {
            Upload upload;
            Message message = session.peer.next();
            bool had = false;
            if (message.command == Command::set_tensor_hash) {
                upload.looked_up = true;
                EXPECT_EQ(+message.as<wire::SetTensorHashRequest>().hash, wire::fnv1a(data));
                had = has(i);
                session.peer.reply(static_cast<uint8_t>(had));
            }
            if (!had) {
                if (upload.looked_up) {
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
        session.peer.reply(uint32_t{1});
    });
    ggml_tensor * tensor = session.kit.f32(8);
    for (int i = 0; i < count; ++i) {
        session.set(tensor, data, is_weight);
    }
    EXPECT_TRUE(session->queries().device_count());
    server.join();
    return seen;
}

TEST(Weights, OnlyLargeWeightsAreLookedUp) {
    Session session;
    const auto never = [](int) { return false; };
    EXPECT_FALSE(uploads(session, noise(ten_mib), 1, true, never)[0].looked_up) << "exactly 10 MiB";
    EXPECT_FALSE(uploads(session, noise(ten_mib + 4), 1, false, never)[0].looked_up) << "no weight";
    const Upload missed = uploads(session, noise(ten_mib + 4), 1, true, never)[0];
    EXPECT_TRUE(missed.looked_up);
    EXPECT_EQ(missed.cache_flag, 1) << "so that it is there the next time";
}

TEST(Weights, HitIsNotSent) {
    Session session;
    const auto seen = uploads(session, noise(ten_mib + 4), 2, true, [](int) { return true; });
    EXPECT_TRUE(seen[0].looked_up && seen[1].looked_up);
    EXPECT_FALSE(seen[0].sent || seen[1].sent);
}

TEST(Weights, HashingStopsAfterEightMissesInARow) {
    Session session;
    const auto seen = uploads(session, noise(ten_mib + 4), 18, true, [](int i) { return i == 5; });
    for (int i = 0; i < 18; ++i) {
        EXPECT_EQ(seen[i].looked_up, i < 14) << i;  // five misses, one hit, eight misses
        EXPECT_EQ(seen[i].sent, i != 5) << i;
    }
}

// A file of weights, mapped as a program maps its model, and a session with a native server.
struct WeightSession {
    static constexpr int64_t count = 300 * 1024;  // elements of each weight, more than FIND's threshold
    static constexpr size_t size = count * 4;

    WeightSession() {
        ::setenv("LLAMA_CACHE", folder().path().c_str(), 1);  // before KnownDigests reads it
        const auto bytes = noise(3 * size);
        test::write_file(file(), test::text_of(bytes));
        const UniqueFd fd(::open(file().c_str(), O_RDONLY));
        void * memory = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, fd.get(), 0);
        EXPECT_NE(memory, MAP_FAILED);
        mapped = const_bytes(memory, bytes.size());
        session.peer.reply(wire::SessionFacts{.has_cache = 1});
    }
    ~WeightSession() { ::munmap(const_cast<std::byte *>(mapped.data()), mapped.size()); }

    static const test::TemporaryFolder & folder() {
        static const test::TemporaryFolder only;
        return only;
    }
    static std::filesystem::path file() { return folder() / "model.gguf"; }

    ConstBytes part(size_t i) const { return mapped.subspan(i * size, size); }
    void set(size_t i) { session.set(tensors[i], part(i), true); }
    // Plays the server until the client disconnects. `found` has the replies to FIND, nullopt where one was sent before.
    std::vector<Message> serve(const std::vector<std::optional<uint8_t>> & found) {
        std::vector<Message> all;
        size_t finds = 0;
        while (auto message = session.peer.next_or_end()) {
            if (message->command == static_cast<Command>(wire::NativeCommand::find)) {
                if (const auto answer = found.at(finds++)) {
                    session.peer.reply(*answer);
                }
            } else if (message->command == static_cast<Command>(wire::NativeCommand::read)) {
                session.peer.reply_bytes(std::vector<std::byte>(16, std::byte{7}));
            }
            all.push_back(std::move(*message));
        }
        return all;
    }

    Session session{native_hello()};
    ggml_tensor * tensors[3] = {session.kit.f32(count), session.kit.f32(count), session.kit.f32(count)};
    ConstBytes mapped;
};

TEST(Weights, AfterAHitTheNextReplyIsNotAwaitedAndAMissIsUploaded) {
    WeightSession weights;
    weights.session.peer.reply<uint8_t>(1);
    for (size_t i = 0; i < 3; ++i) {
        weights.set(i);  // only the first has its answer
    }
    std::vector<Message> received;
    std::vector<std::byte> dest(16);
    {
        std::jthread server([&] { received = weights.serve({std::nullopt, 1, 0}); });
        weights.session->await(weights.session.get(weights.tensors[0], dest));
        EXPECT_FALSE(weights.session->failed());
        weights.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(dest, std::vector<std::byte>(16, std::byte{7}));
    ASSERT_EQ(command_names(received), "FACTS DECLARE FIND DECLARE FIND DECLARE FIND WRITE READ ");
    const auto write = received[7].as<wire::WriteRequest>();
    EXPECT_EQ(+write.slot, 2);
    EXPECT_EQ(+write.keep, 1);
    EXPECT_TRUE(std::ranges::equal(received[7].from(sizeof write), weights.part(2)));
}

// As -sm tensor splits them: rows of the mapped file become one weight on the server.
TEST(Weights, RowsAreLookedUpAndUploadedPacked) {
    constexpr size_t row = 1024, stride = 3 * row, count = WeightSession::size / row;
    WeightSession weights;
    weights.session.peer.reply<uint8_t>(1);
    std::vector<std::vector<std::byte>> packed(3);
    for (size_t i = 0; i < 3; ++i) {
        const auto * data = weights.mapped.data() + i * row;
        for (size_t r = 0; r < count; ++r) {
            packed[i].insert(packed[i].end(), data + r * stride, data + r * stride + row);
        }
        const auto * tensor = weights.tensors[i];
        weights.session->data().set_2d(encode_region(*tensor, GraphKit::handle), range_of(*tensor), 0, row, count, row, data,
                                       stride, true);
    }
    std::vector<Message> received;
    std::vector<std::byte> dest(16);
    {
        std::jthread server([&] { received = weights.serve({std::nullopt, 1, 0}); });
        weights.session->await(weights.session.get(weights.tensors[0], dest));
        EXPECT_FALSE(weights.session->failed());
        weights.session.connection = fail(Errc::io, "closed");
    }
    ASSERT_EQ(command_names(received), "FACTS DECLARE FIND DECLARE FIND DECLARE FIND WRITE READ ");
    for (size_t i = 0; i < 3; ++i) {
        const auto find = received[2 * i + 2].as<wire::FindRequest>();
        cache::Blake3 digest;
        digest.update(packed[i]);
        EXPECT_EQ(+find.size, packed[i].size());
        EXPECT_TRUE(std::ranges::equal(find.digest, digest.bytes())) << i;
    }
    const auto write = received[7].as<wire::WriteRequest>();
    EXPECT_EQ(+write.keep, 1);
    EXPECT_TRUE(std::ranges::equal(received[7].from(sizeof write), packed[2]));
}

// whisper.cpp fills its buffers before it marks them.
TEST(Weights, UnmarkedWritesCountIfTheBufferIsMarkedBeforeTheFirstLaunch) {
    static std::vector<std::string> logged;
    for (const bool is_marked : {true, false}) {
        logged.clear();
        Session session;
        session.peer.reply(wire::AllocBufferReply{GraphKit::handle, 4096});
        session.peer.reply(GraphKit::handle);
        const auto buffer = session->buffers().alloc(0, 4096);
        ASSERT_TRUE(buffer);
        ggml_tensor *one = session.kit.f32(256), *other = session.kit.f32(256);
        session.set(one, noise(1024));
        session.set(other, noise(1024));
        EXPECT_TRUE(session->buffers().has_unmarked_writes());
        set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
        if (is_marked) {
            session->buffers().mark_as_weights(*buffer);
            session->buffers().mark_as_weights(*buffer);
        }
        session.launch(session.doubled(one, 31));
        set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
        EXPECT_FALSE(session->buffers().has_unmarked_writes());
        ASSERT_EQ(logged.size(), is_marked ? 1u : 0u);
        EXPECT_TRUE(!is_marked || logged[0].contains(": 2 KiB of weights in ")) << logged[0];
    }
}

// Sending a FIND takes no time, and it may miss.
TEST(Weights, CountWhenTheReplyArrives) {
    static std::vector<std::string> logged;
    logged.clear();
    WeightSession weights;
    weights.session.peer.reply<uint8_t>(1);
    set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
    for (size_t i = 0; i < 3; ++i) {
        weights.set(i);
    }
    std::vector<std::byte> dest(16);
    {
        std::jthread server([&] {
            std::this_thread::sleep_for(milliseconds(200));  // the server reads its disk; measured by the log line
            weights.serve({std::nullopt, 1, 0});
        });
        weights.session->await(weights.session.get(weights.tensors[0], dest));
        weights.session.connection = fail(Errc::io, "closed");
    }
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    const auto line = std::ranges::find_if(logged, [](const std::string & each) { return each.contains("of weights"); });
    ASSERT_NE(line, logged.end());
    EXPECT_TRUE(line->contains("3.5 MiB of weights in")) << *line;
    EXPECT_FALSE(line->contains(" in 0.0")) << *line;
    EXPECT_TRUE(line->contains(", 67 % already on the server")) << *line;
}

TEST(Weights, LostSessionReportsNoLoad) {
    static std::vector<std::string> logged;
    logged.clear();
    {
        Session session;
        ggml_tensor * tensor = session.kit.f32(8);
        session.set(tensor, noise(32), true);
        session.peer.close();
        set_log_sink([](LogLevel, std::string_view line) { logged.emplace_back(line); });
        EXPECT_FALSE(session->queries().device_count());
    }
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    ASSERT_EQ(logged.size(), 1u);
    EXPECT_TRUE(logged[0].contains("is lost")) << logged[0];
}

TEST(Weights, ChangedFileEndsSession) {
    WeightSession weights;
    weights.session.peer.reply<uint8_t>(1);
    weights.set(0);
    weights.set(1);
    std::filesystem::remove(weights.file());
    std::vector<std::byte> dest(16, std::byte{1});
    {
        std::jthread server([&] { weights.serve({std::nullopt, 0}); });
        weights.session->await(weights.session.get(weights.tensors[0], dest));
        EXPECT_TRUE(weights.session->failed());
        weights.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(dest, std::vector<std::byte>(16, std::byte{0xff})) << "as after any loss";
}

// With a cold cache each of the first weights costs a round trip, and no bytes are read twice.
TEST(Weights, AfterAMissTheNextReplyIsAwaited) {
    WeightSession weights;
    std::vector<Message> received;
    {
        std::jthread server([&] { received = weights.serve({0, 1, 1}); });
        for (size_t i = 0; i < 3; ++i) {
            weights.set(i);
        }
        weights.session->synchronize();
        EXPECT_FALSE(weights.session->failed());
        weights.session.connection = fail(Errc::io, "closed");
    }
    EXPECT_EQ(command_names(received), "FACTS DECLARE FIND WRITE DECLARE FIND DECLARE FIND ");
}

TEST(Weights, InvalidFindReplyEndsSession) {
    WeightSession weights;
    weights.session.peer.reply<uint8_t>(255);
    weights.set(0);
    EXPECT_TRUE(weights.session->failed());
}

}  // namespace
}  // namespace caravan::client
