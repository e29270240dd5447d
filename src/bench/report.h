// What was measured, for people (Markdown) and for programs (JSON, CSV).
//
// JSON has every measurement and what follows from it; keys do not change their meaning, new ones may come; null is what
// was not measured. CSV has one line for each measurement and nothing else.
#pragma once

#include <string>

#include "bench/link_bench.h"
#include "bench/model_bench.h"

namespace caravan::bench {

std::string markdown(const ModelBench & bench);
std::string csv(const ModelBench & bench);
std::string json(const ModelBench & bench, const std::string & program);

std::string markdown(const LinkBench & bench);
std::string csv(const LinkBench & bench);
std::string json(const LinkBench & bench, const std::string & program);

// What the tables and pictures of links show of the samples of one size.
struct LinkRow {
    uint64_t bytes = 0;
    size_t round_trips = 0;
    double p50_us = 0, p90_us = 0, p99_us = 0;  // of all rounds together
    Summary to_server, from_server;             // bytes per second, over the rounds
};
// The sizes that were measured at least once.
std::vector<LinkRow> rows_of(const Link & link);

}  // namespace caravan::bench
