// Compares the runs of arrangements. Ratios and differences are taken within a round, so that a machine that is slower for
// some minutes affects all arrangements.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/llama_bench.h"
#include "bench/statistics.h"

namespace caravan::bench {

struct Measured {
    Arrangement arrangement;
    std::vector<Run> runs;  // one for each round, up to a failure
    std::string failure;    // of the run that failed, which was the last
};

// One test in one arrangement, over all its rounds.
struct Row {
    std::string test;
    bool generates = false;
    Summary tokens_per_second;
    Summary ratio;        // of tokens per second to those of the first arrangement
    Summary overhead_us;  // time of a token less that of the local arrangement; generating tests only
};

// The first load and the later ones are separate, since the first one may fill a server's cache.
struct LoadRow {
    Summary seconds;     // of the first load: one value
    Summary from_cache;  // share of the weights; empty if unknown
};

// Of a generated token, over all rounds, as in Traffic; empty if unknown.
struct TrafficRow {
    Summary round_trips, sends, bytes_up, bytes_down, us;
    Summary client, compute, wire, queue;
};

struct Comparison {
    Summary load_s;
    Summary load_ratio;  // of the time to that of the first arrangement
    LoadRow first_load, later_loads;
    std::vector<Row> rows;
    TrafficRow traffic;
};

// Returns one Comparison for each arrangement, in the same order.
std::vector<Comparison> compare(const std::vector<Measured> & measured);

}  // namespace caravan::bench
