// What is installed here: llama-bench, our plug-in, and whether the one gets the other.
#pragma once

#include <string>

#include "bench/arrangement.h"

namespace caravan::bench {

// $LLAMA_BENCH, else the first on PATH that is not a launcher of ours.
Result<std::string> find_llama_bench();

// The plug-in beside this program, else the installed one.
Result<std::string> find_plugin();

// Does llama-bench get in this arrangement the RPC plug-in that it is about, and does each server answer? Runs
// llama-bench without a model.
Result<> check(const Arrangement & arrangement, const Settings & settings, TimePoint deadline);

}  // namespace caravan::bench
