// Sessions that are recorded for GGML_RPC_STATS.
#include "client/session/connection.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <thread>

#include "base/log.h"
#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using scripted::native_hello;
using test::WirePeer;
using wire::Command;

// Opens and closes a recorded session; `spans` plays the server's reply to SPANS. Exits the process: GGML_RPC_STATS is read
// once, so each test needs its own.
void record_session(const std::function<void(WirePeer &)> & spans) {
    ::setenv("GGML_RPC_STATS", "/dev/null", 1);
    ::setenv("GGML_RPC_ON_LOSS", "exit", 1);
    ::alarm(30);
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    Session session([](WirePeer & peer) {
        peer.next();
        peer.reply(native_hello());
        for (int i = 0; i < 16; ++i) {
            peer.reply(uint64_t{0});  // the server's clock
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
    server.join();  // ThreadSanitizer reports a thread that is left
    std::fprintf(stderr, "ended\n");
    ::_exit(0);
}

class Records : public testing::Test {
protected:
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(Records, EndlessSpansAreBounded) {
    EXPECT_EXIT(record_session([](WirePeer & peer) {
                    peer.reply(wire::SpansReply{.count = wire::spans_per_reply, .spans = {}});
                }),
                testing::ExitedWithCode(0), "ended");
}

TEST_F(Records, InvalidSpansAreDropped) {
    EXPECT_EXIT(record_session([](WirePeer & peer) { peer.reply(wire::SpansReply{.count = 1 << 20, .spans = {}}); }),
                testing::ExitedWithCode(0), "its remaining spans are not recorded");
}

// The session is over, so the loss does not end the program with GGML_RPC_ON_LOSS's exit code.
TEST_F(Records, LossAtTheEndIsNotReported) {
    EXPECT_EXIT(record_session([](WirePeer & peer) { peer.close(); }), testing::ExitedWithCode(0), "ended");
}

}  // namespace
}  // namespace caravan::client
