// Runs llama-bench and reads its results.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/arrangement.h"
#include "bench/traffic.h"

namespace caravan::bench {

// One test of a run: "pp512", "tg128"; "tg128@d1024" follows a context of 1024 tokens.
struct Test {
    std::string name;
    uint64_t tokens = 0;
    bool generates = false;
    std::vector<uint64_t> ns;  // of each repetition

    // Of the median repetition, so that a disturbed one has no effect.
    double tokens_per_second() const;
    double us_per_token() const { return 1e6 / tokens_per_second(); }
};

// Facts about model and machine, as llama-bench reports them.
struct ModelFacts {
    std::string type, cpu, gpu, build;
    uint64_t bytes = 0, parameters = 0;
};

struct Run {
    uint32_t round = 0;     // from 0
    uint32_t position = 0;  // in the order of the round
    double load_s = 0;      // from opening the file until model and context are ready
    std::vector<Test> tests;
    std::optional<double> load_from_cache;  // share of the weights that the servers had; Caravan's plug-in only
    std::optional<Traffic> traffic;         // of a generated token; Caravan's plug-in only
};

// Runs all tests once. Sets `facts` unless it is null.
Result<Run> run_once(const Arrangement & arrangement, const Settings & settings, TimePoint deadline, ModelFacts * facts);

// Measures the traffic of a generated token, by two runs that only generate, each within `limit`; Caravan's plug-in only.
Result<Traffic> measure_traffic(const Arrangement & arrangement, const Settings & settings, seconds limit);

// The parts of run_once(): read the output of llama-bench; derive the time to load from its progress lines.
Result<std::vector<Test>> parse_tests(const std::string & json, ModelFacts * facts);
Result<double> load_seconds(const std::vector<Child::Line> & progress);

}  // namespace caravan::bench
