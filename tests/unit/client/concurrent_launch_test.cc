// Two threads of the program launch on one session at the same time. Each launch is confirmed by a read, or sent together with
// the program's read; both release the session's lock while they wait (Launcher::confirm()).
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <latch>
#include <thread>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using test::GraphKit;
using test::Message;
using wire::Command;

constexpr int rounds = 300;
constexpr size_t result_size = 64;

// The content of the tensor at this address, as the server replies.
std::vector<std::byte> content(uint64_t address, size_t size) { return test::noise(size, static_cast<uint32_t>(address)); }

// A session whose server replies to reads, in a thread of its own, until it has received `limit` messages.
struct ConcurrentLaunchTest : testing::Test {
    void serve(int limit) {
        server = std::jthread([this, limit] {
            for (int i = 0; i < limit; ++i) {
                const auto message = session.peer.next_or_end();
                if (!message) {
                    return;
                }
                launches += message->command == Command::graph_compute || message->command == Command::graph_recompute;
                if (message->command == Command::get_tensor) {
                    const auto request = message->as<wire::GetTensorRequest>();
                    session.peer.reply_bytes(content(request.tensor.data + request.offset, request.size));
                }
            }
            session.peer.close();
        });
    }

    // One thread: launches `graph` and reads its result. Returns the number of launches that succeeded. A result that the
    // client reports must be this graph's.
    int work(const ggml_cgraph * graph) {
        const ggml_tensor * result = graph->nodes[0];
        const auto expected = content(reinterpret_cast<uint64_t>(result->data), result_size);
        const std::vector<std::byte> absent(result_size, std::byte{0xff});
        int succeeded = 0;
        ready.arrive_and_wait();
        for (int i = 0; i < rounds; ++i) {
            const bool is_launched = session.launch(graph) == GGML_STATUS_SUCCESS;
            std::vector<std::byte> got(result_size);
            session->await(session.get(result, got));
            if (session->failed()) {
                EXPECT_TRUE(got == expected || got == absent) << i;
            } else {
                EXPECT_TRUE(is_launched) << i;
                EXPECT_TRUE(got == expected) << i;
            }
            succeeded += is_launched ? 1 : 0;
        }
        return succeeded;
    }

    // Both threads at once. Returns how many launches succeeded.
    int run() {
        ggml_cgraph * one = session.doubled(session.kit.f32(16), 1);
        ggml_cgraph * two = session.doubled(session.kit.f32(16), 2);
        one->nodes[0]->flags |= GGML_TENSOR_FLAG_OUTPUT;  // so the first launch is confirmed
        two->nodes[0]->flags |= GGML_TENSOR_FLAG_OUTPUT;
        int first = 0;
        std::jthread other([&] { first = work(one); });
        const int second = work(two);
        other.join();
        return first + second;
    }

    Session session;
    std::latch ready{2};
    std::atomic<int> launches = 0;
    std::jthread server;
};

TEST_F(ConcurrentLaunchTest, EachThreadReceivesTheResultOfItsGraph) {
    serve(INT32_MAX);
    EXPECT_EQ(run(), 2 * rounds);
    EXPECT_EQ(launches, 2 * rounds) << "each was sent once";
    session.connection = fail(Errc::io, "closed");
}

TEST_F(ConcurrentLaunchTest, LossEndsTheWaitsOfBothThreads) {
    serve(rounds);
    const int succeeded = run();
    EXPECT_GT(succeeded, 0);
    EXPECT_LE(succeeded, rounds);
    EXPECT_TRUE(session->failed());
}

}  // namespace
}  // namespace caravan::client
