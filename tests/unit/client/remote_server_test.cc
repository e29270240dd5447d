#include "client/session/remote_server.h"

#include <gtest/gtest.h>

#include <set>

#include "support/scripted_server.h"

namespace caravan::client {
namespace {

using test::ScriptedServer;
using test::WirePeer;
using wire::Command;

// A server with `devices` devices. Each reports 4 MiB of free memory, less one byte for each query.
class QueriedServer {
public:
    explicit QueriedServer(uint32_t devices, bool is_native = true)
        : server([this, devices, is_native](WirePeer & peer, Command first) { serve(peer, first, devices, is_native); },
                 [is_native](size_t) {
                     return wire::Extension{.features = is_native ? wire::feature_native : 0u};
                 }) {}

    std::atomic<uint64_t> memory_queries = 0;
    std::optional<wire::DeviceMemoryReply> fixed_memory;
    std::atomic<int> size_sessions = 0;  // sessions that began with a size query
    std::atomic<bool> replies_to_size_queries = true;
    std::mutex mutex;
    std::multiset<std::pair<uint32_t, int64_t>> size_queries;  // device and length; without the first query of each session
    ScriptedServer server;

private:
    // Replies to one connection. The client queries all constants in one batch.
    void serve(WirePeer & peer, Command first, uint32_t devices, bool is_native) {
        if (first == Command::get_device_memory) {
            const uint64_t queries = ++memory_queries;
            peer.reply(fixed_memory.value_or(wire::DeviceMemoryReply{(4 << 20) - queries, 8 << 20}));
            return;
        }
        if (first == Command::get_alloc_size) {
            ++size_sessions;
            if (!replies_to_size_queries) {
                peer.close();
                return;
            }
            peer.reply(uint64_t{1});
            while (const auto query = peer.next_or_end()) {
                const auto request = query->as<wire::GetAllocSizeRequest>();
                {
                    const std::lock_guard lock(mutex);
                    size_queries.emplace(request.device, request.tensor.ne[0]);
                }
                peer.reply(uint64_t{1});
            }
            return;
        }
        if (first != Command::device_count) {
            return;
        }
        peer.reply(devices);
        const uint32_t each = is_native ? 3 : 2;
        std::vector<test::Message> queries;
        for (uint32_t i = 0; i < each * devices; ++i) {
            queries.push_back(peer.next());
        }
        for (uint32_t i = 0; i < each * devices; ++i) {
            const test::Message & query = queries[i];
            EXPECT_EQ(query.as<uint32_t>(), i / each);
            if (query.command == wire::command_device_facts) {
                wire::DeviceFactsReply facts{};
                std::strcpy(facts.name, "GPU\x1b[2J");
                std::strcpy(facts.description, "fast\nerror: forged");
                peer.reply(facts);
            } else {
                peer.reply(uint64_t{64} << query.as<uint32_t>());
            }
        }
    }
};

TEST(RemoteServer, QueriesConstantsOverOneConnection) {
    QueriedServer of(3);
    const auto server = RemoteServer::reach(of.server.endpoint());
    ASSERT_TRUE(server) << server.error().text;
    ASSERT_EQ((*server)->device_count(), 3u);
    EXPECT_EQ((*server)->alignment(0), 64u);
    EXPECT_EQ((*server)->alignment(2), 256u);
    EXPECT_EQ((*server)->max_size(1), 128u);
    EXPECT_EQ((*server)->description(1), of.server.endpoint().text() + " (GPU?[2J: fast?error: forged)");
    EXPECT_EQ(of.server.count(Command::device_count), 1) << "one connection for all queries";
}

// llama.cpp queries each device four times before it loads a model, each time over a new connection.
TEST(RemoteServer, CachesMemory) {
    QueriedServer of(2);
    const auto server = RemoteServer::reach(of.server.endpoint());
    ASSERT_TRUE(server) << server.error().text;
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ((*server)->memory(0).value().free, (4u << 20) - 1);
        EXPECT_EQ((*server)->memory(1).value().free, (4u << 20) - 2);
    }
    EXPECT_EQ(of.server.count(Command::get_device_memory), 2);
    ASSERT_TRUE((*server)->session(RemoteServer::Use::memory));  // which may have changed it, and is closed
    EXPECT_EQ((*server)->memory(0).value().free, (4u << 20) - 3);
}

// Programs add the memory of all devices.
TEST(RemoteServer, LimitsFreeMemoryToTotalAndRefusesExcessiveTotal) {
    for (const uint64_t total : {uint64_t{8} << 20, UINT64_MAX}) {
        QueriedServer of(1);
        of.fixed_memory = wire::DeviceMemoryReply{UINT64_MAX, total};
        const auto server = RemoteServer::reach(of.server.endpoint());
        ASSERT_TRUE(server) << server.error().text;
        const auto memory = (*server)->memory(0);
        ASSERT_EQ(memory.has_value(), total < UINT64_MAX);
        EXPECT_EQ(memory ? memory->free : total, total);
    }
}

// A row of blocks that back-ends pad. Each has another length, because the process caches queries.
struct PaddedRow {
    PaddedRow() : context(ggml_init({.mem_size = 4096, .mem_buffer = nullptr, .no_alloc = true}), ggml_free) {
        static int64_t blocks = 1001;
        tensor = ggml_new_tensor_1d(context.get(), GGML_TYPE_Q8_0, 32 * (blocks += 2));
    }
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context;
    ggml_tensor * tensor = nullptr;
};

TEST(RemoteServer, SizeQueryRepeatsThoseOfOtherDevices) {
    for (const bool is_native : {true, false}) {
        QueriedServer of(2, is_native);
        const auto server = RemoteServer::reach(of.server.endpoint());
        ASSERT_TRUE(server) << server.error().text;
        const PaddedRow first, one, two;
        const auto times = [&](uint32_t device, const PaddedRow & row) {
            const std::lock_guard lock(of.mutex);
            return of.size_queries.count({device, row.tensor->ne[0]});
        };
        const auto size = [&](uint32_t device, const PaddedRow & row) { return (*server)->alloc_size(device, *row.tensor); };
        for (const PaddedRow * row : {&first, &one, &two}) {
            EXPECT_EQ(size(0, *row), ggml_nbytes(row->tensor)) << "the server's reply is smaller than the tensor";
        }
        EXPECT_EQ(size(1, one), ggml_nbytes(one.tensor));
        EXPECT_EQ(times(1, one), 1u);
        EXPECT_EQ(times(1, two), is_native ? 1u : 0u);
        for (int i = 0; i < 2; ++i) {
            EXPECT_EQ(size(1, two), ggml_nbytes(two.tensor));
        }
        EXPECT_EQ(times(1, two), 1u);
        EXPECT_EQ(times(0, two), 1u);
    }
}

TEST(RemoteServer, NoQueryForAWhileAfterAFailure) {
    QueriedServer of(1);
    of.replies_to_size_queries = false;
    const auto server = RemoteServer::reach(of.server.endpoint());
    ASSERT_TRUE(server) << server.error().text;
    const PaddedRow one, two;
    EXPECT_EQ((*server)->alloc_size(0, *one.tensor), ggml_nbytes(one.tensor));
    EXPECT_EQ((*server)->alloc_size(0, *two.tensor), ggml_nbytes(two.tensor));
    EXPECT_EQ(of.size_sessions, 1);
}

}  // namespace
}  // namespace caravan::client
