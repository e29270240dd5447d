// Measures a model in several arrangements, interleaved: each round runs each arrangement once.
#pragma once

#include <vector>

#include "bench/compare.h"
#include "bench/rounds.h"

namespace caravan::bench {

struct ModelBench {
    Settings settings;
    uint32_t rounds = 5;
    bool cold = false;  // drop the model's file from this machine's page cache before each run
    seconds run_limit{3600};
    ModelFacts facts;
    std::vector<Measured> measured;  // one for each arrangement; set by run()

    bool any_failed() const;
};

// Runs all arrangements. One that fails is not run again.
void run(ModelBench & bench, const std::vector<Arrangement> & arrangements, const Progress & progress);

}  // namespace caravan::bench
