#include "client/observe/session_recorder.h"

#include <gtest/gtest.h>

namespace caravan::client {
namespace {

TEST(SessionRecorder, CountsSinceTheProgramReceivedTheSession) {
    SessionRecorder recorder;
    recorder.opened({.sends = 10, .bytes_sent = 1000, .bytes_received = 100, .round_trips = 8});  // the handshake's queries
    recorder.count_launch();
    recorder.count_launch();
    EXPECT_EQ(recorder.launches(), 2u);
    SessionStats stats;
    recorder.count(stats, {.sends = 13, .bytes_sent = 1500, .bytes_received = 160, .round_trips = 10, .waiting_ns = 7});
    EXPECT_EQ(stats.whole.stream.sends, 3u);
    EXPECT_EQ(stats.whole.stream.bytes_sent, 500u);
    EXPECT_EQ(stats.whole.stream.bytes_received, 60u);
    EXPECT_EQ(stats.whole.stream.round_trips, 2u);
    EXPECT_EQ(stats.whole.stream.waiting_ns, 7u);
    EXPECT_EQ(stats.whole.launches, 2u);
    EXPECT_EQ(stats.since_load.stream.sends, 3u) << "no weights were loaded";
    EXPECT_FALSE(stats.round_trip_ns) << "not measured";
}

TEST(SessionRecorder, CountsSinceTheLoadSeparately) {
    SessionRecorder recorder;
    recorder.opened({});
    recorder.count_launch();
    recorder.loaded({.sends = 100, .bytes_sent = 1 << 30});
    recorder.count_launch();
    recorder.count_launch();
    SessionStats stats;
    recorder.count(stats, {.sends = 102, .bytes_sent = (1 << 30) + 7});
    EXPECT_EQ(stats.whole.stream.sends, 102u);
    EXPECT_EQ(stats.whole.launches, 3u);
    EXPECT_EQ(stats.since_load.stream.sends, 2u);
    EXPECT_EQ(stats.since_load.stream.bytes_sent, 7u);
    EXPECT_EQ(stats.since_load.launches, 2u);
    EXPECT_LE(stats.since_load.seconds, stats.whole.seconds);
}

// The server's clock and spans cost round trips.
TEST(SessionRecorder, QueriesNothingThatWasNotRequested) {
    SessionRecorder recorder;
    recorder.synchronize_clock([]() -> Result<uint64_t> {
        ADD_FAILURE() << "a query of the clock";
        return 0;
    });
    recorder.opened({});
    EXPECT_FALSE(recorder.is_traced());
    recorder.finish({}, [](wire::SpansReply &) { ADD_FAILURE() << "a query of spans"; });
}

}  // namespace
}  // namespace caravan::client
