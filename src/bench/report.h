// Prints results for people (Markdown) and programs (JSON, CSV).
//
// JSON has every measurement and all derived values. Keys keep their meaning; new ones may be added; null: not measured. CSV
// has one line for each measurement.
#pragma once

#include <string>

#include "bench/link_bench.h"
#include "bench/model_bench.h"
#include "bench/reduction_bench.h"

namespace caravan::bench {

std::string markdown(const ModelBench & bench);
std::string csv(const ModelBench & bench);
std::string json(const ModelBench & bench, const std::string & program);

std::string markdown(const LinkBench & bench);
std::string csv(const LinkBench & bench);
std::string json(const LinkBench & bench, const std::string & program);

// Derived values of one message size, for tables and plots.
struct LinkRow {
    uint64_t bytes = 0;
    size_t round_trips = 0;
    double p50_us = 0, p90_us = 0, p99_us = 0;  // over all rounds
    Summary to_server, from_server;             // bytes per second, over the rounds
};
// Skips sizes without a measurement.
std::vector<LinkRow> rows_of(const Link & link);

std::string markdown(const ReductionBench & bench);
std::string csv(const ReductionBench & bench);
std::string json(const ReductionBench & bench, const std::string & program);

struct ReductionRow {
    uint64_t bytes = 0;
    std::string_view algorithm;  // "" if the servers do not report it
    size_t sums = 0;  // of all rounds
    // Of a sum: the mean of its times on the ranks. One that begins late is finished early by as much.
    double p50_us = 0, p10_us = 0, p90_us = 0;
};
// Skips sizes without a measurement.
std::vector<ReductionRow> rows_of(const ReductionBench & bench);

}  // namespace caravan::bench
