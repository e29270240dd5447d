// Computes the traffic and the parts of the time of a generated token, from the plug-in's counts (GGML_RPC_STATS) of two runs
// of llama-bench. The second run generates more tokens. The difference of the counts belongs to the additional tokens: loading,
// warming up and other single costs are the same in both runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace caravan::bench {

// Counts of one session with one server, from the plug-in. All except those of weights begin after the load.
struct SessionCounts {
    std::string endpoint;
    uint64_t replacements = 0;  // of the connection
    uint64_t sends = 0, bytes_sent = 0, bytes_received = 0, round_trips = 0, launches = 0;
    double waiting_s = 0;
    uint64_t weights = 0, weights_from_cache = 0;  // bytes
    // Native dialect only: the shortest round trip of a small query, and the time that the server was busy, without waits for
    // other servers.
    std::optional<double> round_trip_s, busy_s;
};

// Parses a file of GGML_RPC_STATS (docs/formats/stats.md). Skips sessions that computed nothing.
Result<std::vector<SessionCounts>> parse_stats(const std::string & text);

// The share of the weights that the servers had; empty if no weights were loaded.
std::optional<double> share_from_cache(const std::vector<SessionCounts> & sessions);

// The parts of the time of a token, in µs. The first two are measured.
struct TimeShares {
    double client = 0;   // this machine does not wait for a server
    double compute = 0;  // the servers are busy, by their own clocks: their sum, or the longest if they compute at once
    double wire = 0;     // estimated: the round trips, each as long as that of a small query. Their sum, or the longest
    double queue = 0;    // the rest: bytes in transit, links between servers, threads that wake up. Includes the error of
                         // the estimate, so it may be negative
};

// Per generated token, summed over the servers except as TimeShares says.
struct Traffic {
    double round_trips = 0, sends = 0, bytes_up = 0, bytes_down = 0;
    double us = 0;
    std::optional<TimeShares> shares;  // empty if a server does not report its busy time
};

struct GeneratedTokens {
    uint64_t tokens = 0;
    double seconds = 0;
    std::vector<SessionCounts> sessions;
};

enum class Computing { in_turn, at_once };  // the servers, for each token

// `longer` generated more tokens. Errc::protocol if the runs have different servers.
Result<Traffic> traffic_of(const GeneratedTokens & shorter, const GeneratedTokens & longer, Computing servers);

}  // namespace caravan::bench
