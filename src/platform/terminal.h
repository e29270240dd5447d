// The terminal behind the standard streams. Threads: any.
#pragma once

#include <cstddef>
#include <string_view>

namespace caravan::platform {

bool stdout_is_terminal();
bool stderr_is_terminal();

// The number of columns of the terminal at stderr; 80 if it is unknown.
size_t terminal_width();

// Writes in one system call, past buffers and locks of the standard library. Ignores failure.
void write_to_stderr(std::string_view text);

}  // namespace caravan::platform
