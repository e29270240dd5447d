// A model in several arrangements, interleaved: each round runs each once.
#pragma once

#include <vector>

#include "bench/compare.h"
#include "bench/rounds.h"

namespace caravan::bench {

struct ModelBench {
    Settings settings;
    uint32_t rounds = 5;
    bool cold = false;  // the model's file is dropped from this machine's memory before each run
    seconds run_limit{3600};
    ModelFacts facts;
    std::vector<Measured> measured;  // by arrangement; filled in by run

    bool any_failed() const;
};

// Runs everything that can be run: an arrangement that fails is left out from then on.
void run(ModelBench & bench, const std::vector<Arrangement> & arrangements, const Say & say);

}  // namespace caravan::bench
