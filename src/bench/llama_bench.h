// One run of llama-bench, and what it measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/arrangement.h"
#include "bench/traffic.h"

namespace caravan::bench {

// One test of a run: "pp512", "tg128"; "tg128@d1024" with a context of 1024 tokens before it.
struct Test {
    std::string name;
    uint64_t tokens = 0;
    bool generates = false;
    std::vector<uint64_t> ns;  // of each repetition

    // Of the median repetition: one that was disturbed does not count.
    double tokens_per_second() const;
    double us_per_token() const { return 1e6 / tokens_per_second(); }
};

// What llama-bench says of the model and the machine.
struct ModelFacts {
    std::string type, cpu, gpu, build;
    uint64_t bytes = 0, parameters = 0;
};

struct Run {
    uint32_t round = 0;     // from 0
    uint32_t position = 0;  // in the order of its round
    double load_s = 0;      // from opening the file until all is ready for the first batch
    std::vector<Test> tests;
    std::optional<double> load_from_cache;  // the share of the weights that the servers had; our plug-in only
    std::optional<Traffic> traffic;         // of a generated token; our plug-in only
};

// `facts` is filled in, if it is not null.
Result<Run> run_once(const Arrangement & arrangement, const Settings & settings, TimePoint deadline, ModelFacts * facts);

// What a generated token costs on the way, from two runs that only generate, each within `limit`; our plug-in only.
Result<Traffic> measure_traffic(const Arrangement & arrangement, const Settings & settings, seconds limit);

// The parts of run_once: what llama-bench printed, and the time to load from its lines of progress.
Result<std::vector<Test>> parse_tests(const std::string & json, ModelFacts * facts);
Result<double> load_seconds(const std::vector<Child::Line> & progress);

}  // namespace caravan::bench
