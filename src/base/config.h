// Settings from the environment. A value that cannot be read is reported once and the default is used.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace caravan {

// An integer from the environment variable `name`, between `low` and `high`, else `fallback`.
int64_t env_integer(const char * name, int64_t fallback, int64_t low, int64_t high);

// GGML_RPC_TIMEOUT_S: how long a peer may be silent while an answer is awaited. Default 300 s: in the stock
// dialect a long computation looks just like a stopped peer, so a short limit would end healthy work.
seconds answer_timeout();

// GGML_RPC_CONNECT_TIMEOUT_S: connecting and the handshake together. Default 10 s.
seconds connect_timeout();

// GGML_RPC_RECONNECT_S: how long to try to go on with a session whose connection broke. Default 60 s; 0: not at all.
seconds reconnect_time();

// GGML_RPC_POLL_US: how long to watch the socket before sleeping on it. 0 sleeps at once.
microseconds poll_time();

}  // namespace caravan
