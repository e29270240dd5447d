// The log's text about what a session did.
#pragma once

#include <chrono>
#include <string>

#include "server/ipc/session_counters.h"

namespace caravan::server {

// A worker may be compromised: bounds its times by those that are possible, and its other numbers, so that they do not
// overflow. `elapsed`: since the session began. `devices`: their number.
SessionCounters bounded(SessionCounters reported, std::chrono::nanoseconds elapsed, size_t devices);

// "12 graphs computed 640 times, 97 MiB in, 2 MiB out, at most 530 MiB of buffers; 34.0 s, 21.5 s computing (29.8 launches/s);
// weights: 96 MiB received, 400 MiB from the cache, 0 MiB from model files".
std::string summary_of(const SessionCounters & counters);

}  // namespace caravan::server
