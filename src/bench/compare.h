// The arrangements' runs against each other. What is compared was measured in the same round, so that a machine that is
// slower for some minutes is so for all of them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/llama_bench.h"
#include "bench/statistics.h"

namespace caravan::bench {

struct Measured {
    Arrangement arrangement;
    std::vector<Run> runs;  // one for each round, until one failed
    std::string failure;    // of the first run that failed: it was the last
};

// One test in one arrangement, over all its rounds.
struct Row {
    std::string test;
    bool generates = false;
    Summary tokens_per_second;
    Summary ratio;        // of tokens per second, to the first arrangement
    Summary overhead_us;  // of a token, over the local arrangement; generating tests only
};

// The first load may fill a server's cache, of which the later ones profit.
struct LoadRow {
    Summary seconds;     // one of the first
    Summary from_cache;  // share of the weights; empty if it is not known
};

// Of a generated token, over all rounds: as in Traffic. Empty what is not known.
struct TrafficRow {
    Summary round_trips, sends, bytes_up, bytes_down, us;
    Summary client, compute, wire, queue;
};

struct Comparison {
    Summary load_s;
    Summary load_ratio;  // of the times, to the first arrangement
    LoadRow first_load, later_loads;
    std::vector<Row> rows;
    TrafficRow traffic;
};

// One for each arrangement, in their order.
std::vector<Comparison> compare(const std::vector<Measured> & measured);

}  // namespace caravan::bench
