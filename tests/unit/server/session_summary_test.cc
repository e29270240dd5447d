#include "server/supervisor/session_summary.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace caravan::server {
namespace {

constexpr uint64_t mib = 1 << 20;

TEST(SessionSummary, TextHasAllCounters) {
    SessionCounters counters{.graphs_built = 1,
                             .launches = 640,
                             .bytes_received = 97 * mib + 1,
                             .bytes_sent = 2 * mib,
                             .peak_buffer_bytes = 530 * mib,
                             .duration_us = 34'000'000,
                             .computing_us = 21'500'000};
    EXPECT_EQ(summary_of(counters), "1 graph computed 640 times, 97 MiB in, 2 MiB out, at most 530 MiB of buffers; 34.0 s, "
                                    "21.5 s computing (29.8 launches/s)");
    counters.computing_us = 0;
    counters.weight_bytes_from_cache = 400 * mib;
    EXPECT_EQ(summary_of(counters), "1 graph computed 640 times, 97 MiB in, 2 MiB out, at most 530 MiB of buffers; 34.0 s, "
                                    "0.0 s computing; weights: 0 MiB received, 400 MiB from the cache, 0 MiB from model files");
}

TEST(SessionSummary, NumbersOfCompromisedWorkerAreBounded) {
    SessionCounters forged;
    for (uint64_t SessionCounters::* number :
         {&SessionCounters::graphs_built, &SessionCounters::launches, &SessionCounters::bytes_received,
          &SessionCounters::bytes_sent, &SessionCounters::peak_buffer_bytes, &SessionCounters::weight_bytes_received,
          &SessionCounters::weight_bytes_from_cache,
          &SessionCounters::weight_bytes_from_models, &SessionCounters::duration_us, &SessionCounters::computing_us}) {
        forged.*number = UINT64_MAX;
    }
    const SessionCounters checked = bounded(forged, seconds(3), 2);
    EXPECT_EQ(checked.duration_us, 3'000'000u);
    EXPECT_EQ(checked.computing_us, 6'000'000u);
    EXPECT_EQ(checked.launches, uint64_t{1} << 53);
    EXPECT_TRUE(summary_of(checked).contains("; 3.0 s, 6.0 s computing")) << summary_of(checked);
    EXPECT_TRUE(summary_of(checked).contains("weights: 8589934592 MiB received")) << summary_of(checked);
}

TEST(SessionSummary, PossibleNumbersAreKept) {
    const SessionCounters counters{.launches = 3, .bytes_received = 5, .duration_us = 2'000'000, .computing_us = 3'000'000};
    EXPECT_EQ(bounded(counters, seconds(2), 2), counters);
}

}  // namespace
}  // namespace caravan::server
