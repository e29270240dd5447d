// Ends the host program at the user's request: GGML_RPC_ON_LOSS=exit and GGML_RPC_REQUIRE=1.
#pragma once

#include <string_view>

namespace caravan::client {

// Prints the line to stderr and ends the process with exit_code_unavailable. Runs neither destructors nor exit handlers,
// because other threads of the program keep running. Threads: any; only the first caller's line is printed.
[[noreturn]] void end_program(std::string_view line);

}  // namespace caravan::client
