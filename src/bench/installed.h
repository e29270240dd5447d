// Finds llama-bench and the plug-in, and checks that llama-bench loads the plug-in.
#pragma once

#include <string>

#include "bench/arrangement.h"

namespace caravan::bench {

// $LLAMA_BENCH, else the first llama-bench on PATH that is not one of Caravan's launchers. Errc::not_found if there is none.
Result<std::string> find_llama_bench();

// The plug-in beside this program, else the installed one. Errc::not_found if there is none.
Result<std::string> find_plugin();

// Checks that llama-bench loads the RPC plug-in of this arrangement and gets a device from each server. Runs llama-bench
// without a model.
Result<> check(const Arrangement & arrangement, const Settings & settings, TimePoint deadline);

}  // namespace caravan::bench
