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

struct Comparison {
    Summary load_s;
    Summary load_ratio;  // of the times, to the first arrangement
    std::vector<Row> rows;
};

// One for each arrangement, in their order.
std::vector<Comparison> compare(const std::vector<Measured> & measured);

}  // namespace caravan::bench
