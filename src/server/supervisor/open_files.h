// The limit of open files (RLIMIT_NOFILE), of which each session and each connection without a session needs some.
#pragma once

#include <cstddef>

#include "server/supervisor/server_options.h"

namespace caravan::server {

// Raises the limit of this process as needed and permitted, and sets that of workers in `options`. Returns the permitted number
// of clients without a session. Reduces the sessions in `options`, and keeps no graphs, if the limit is too low.
size_t fit_open_files(ServerOptions & options);

}  // namespace caravan::server
