// The statistics of a made-up session.
#pragma once

#include "client/observe/stats.h"

namespace caravan::client::test_stats {

inline SessionStats a_session() {
    return {.endpoint = "unix:/a \"b\"\\c\n",
            .dialect = "native",
            .transport = net::TransportKind::unix_socket,
            .queue_pairs = 2,
            .replacements = 5,
            .whole = {{.sends = 9, .bytes_sent = 900, .bytes_received = 90, .round_trips = 8, .waiting_ns = 7'000'000'000,
                       .sending_ns = 5},
                      6,
                      12.5},
            .since_load = {{.sends = 3, .bytes_sent = 300, .bytes_received = 30, .round_trips = 2,
                            .waiting_ns = 1'000'000'000},
                           2,
                           1.5},
            .weights = {.bytes = 1000, .from_cache = 400, .time = seconds(2)},
            .round_trip_ns = 20'000,
            .served_ns = {{"LAUNCH", 600'000'000}, {"READ", 100'000'000}, {"TAKE", 900'000'000}}};
}

}  // namespace caravan::client::test_stats
