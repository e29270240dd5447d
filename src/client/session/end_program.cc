#include "client/session/end_program.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "base/config.h"
#include "base/formatted.h"

namespace caravan::client {

void end_program(std::string_view line) {
    static std::atomic<bool> is_ending = false;
    while (is_ending.exchange(true)) {
        ::pause();
    }
    std::fflush(stdout);  // text that the program has generated
    // On a terminal the line follows generated text, which seldom ends with a newline.
    const std::string_view new_line = ::isatty(STDERR_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0 ? "\n" : "";
    // Not through ggml's log: a program may print that in another thread, which might not run again.
    const std::string whole = formatted("{}error: {}: the program ends with code {}\n", new_line, line, exit_code_unavailable);
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, whole.data(), whole.size());
    std::_Exit(exit_code_unavailable);
}

}  // namespace caravan::client
