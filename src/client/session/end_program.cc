#include "client/session/end_program.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/config.h"
#include "base/formatted.h"
#include "platform/terminal.h"

namespace caravan::client {

void end_program(std::string_view line) {
    static std::atomic<bool> is_ending = false;
    while (is_ending.exchange(true)) {
        std::this_thread::sleep_for(std::chrono::hours(1));
    }
    std::fflush(stdout);  // text that the program has generated
    // On a terminal the line follows generated text, which seldom ends with a newline.
    const std::string_view new_line = platform::stderr_is_terminal() && platform::stdout_is_terminal() ? "\n" : "";
    // Not through ggml's log: a program may print that in another thread, which might not run again.
    const std::string whole = formatted("{}error: {}: the program ends with code {}\n", new_line, line, exit_code_unavailable);
    platform::write_to_stderr(whole);
    std::_Exit(exit_code_unavailable);
}

}  // namespace caravan::client
