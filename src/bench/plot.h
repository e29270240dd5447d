// Draws results as SVG documents.
#pragma once

#include <string>

#include "bench/link_bench.h"
#include "bench/model_bench.h"

namespace caravan::bench {

// Bars of tokens per second for each test, with whiskers from the slowest round to the fastest.
std::string plot(const ModelBench & bench);

// Curves of round-trip time (p50, dashed p99) and of bandwidth (to the server, dashed from it) by size; both axes are
// logarithmic.
std::string plot(const LinkBench & bench);

// The smallest of 1, 2 and 5 times a power of ten that is at least `value`. `value` is positive.
double round_up(double value);

}  // namespace caravan::bench
