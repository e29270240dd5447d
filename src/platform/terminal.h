// The terminal behind the standard streams. Threads: any.
#pragma once

#include <cstddef>
#include <string_view>

#include "platform/unique_fd.h"

namespace caravan::platform {

inline constexpr Descriptor standard_output = 1, standard_error = 2;

// Opens an empty file for each standard stream that is closed, so that no other file takes its place.
void fill_standard_streams();

bool stdout_is_terminal();
bool stderr_is_terminal();

// The number of columns of the terminal at stderr; 80 if it is unknown.
size_t terminal_width();

// Writes in one system call, past buffers and locks of the standard library. Ignores failure.
void write_to_stderr(std::string_view text);

}  // namespace caravan::platform
