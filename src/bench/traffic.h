// What a generated token costs on the way to the servers, and where its time goes: from the plug-in's own counts
// (GGML_RPC_STATS) of two runs of llama-bench, of which the second generates more tokens.
//
// The difference of two runs is what the additional tokens alone have cost: loading, warming up and all that comes once
// are the same in both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace caravan::bench {

// One session with one server, as the plug-in wrote it down. All but the weights: since they were loaded.
struct SessionCounts {
    std::string endpoint;
    uint64_t sends = 0, bytes_sent = 0, bytes_received = 0, round_trips = 0, launches = 0;
    double waiting_s = 0;
    uint64_t weights = 0, weights_from_cache = 0;  // bytes
    // Of a server that speaks the native dialect: a small question's round trip, and how long the server was busy,
    // waiting for other servers left out.
    std::optional<double> round_trip_s, busy_s;
};

// A file that GGML_RPC_STATS names: a line for each session. Sessions that computed nothing are left out.
Result<std::vector<SessionCounts>> parse_stats(const std::string & text);

// The share of the weights that the servers had; nothing if none were loaded.
std::optional<double> share_from_cache(const std::vector<SessionCounts> & sessions);

// Where the time of a token goes, in µs. The first two are measured.
struct TimeShares {
    double client = 0;   // this machine: not waiting
    double compute = 0;  // the servers are busy, by their own clocks
    double wire = 0;     // estimated: the round trips, each as long as a small question's
    double queue = 0;    // the rest: bytes on their way, links between servers, threads that wake up. Errors of the
                         // estimate end here too: it may be below 0
};

// For one generated token, all servers together.
struct Traffic {
    double round_trips = 0, sends = 0, bytes_up = 0, bytes_down = 0;
    double us = 0;
    std::optional<TimeShares> shares;  // nothing if a server does not tell what it served
};

struct GeneratedTokens {
    uint64_t tokens = 0;
    double seconds = 0;
    std::vector<SessionCounts> sessions;
};

// `longer` generated more tokens.
Result<Traffic> traffic_of(const GeneratedTokens & shorter, const GeneratedTokens & longer);

}  // namespace caravan::bench
