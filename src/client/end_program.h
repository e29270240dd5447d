// The end of the host program, where the user asked for it: GGML_RPC_ON_LOSS=exit and GGML_RPC_REQUIRE=1.
#pragma once

#include <string_view>

namespace caravan::client {

// Prints the line to stderr and ends the process with exit_code_unavailable. Neither destructors nor exit handlers run:
// other threads of the program may be anywhere. Threads: any; the first caller's line is the only one.
[[noreturn]] void end_program(std::string_view line);

}  // namespace caravan::client
