// What a session did, as its worker reports it at its end.
#pragma once

#include <cstdint>

namespace caravan::server {

struct SessionCounters {
    uint64_t graphs_built = 0, launches = 0;
    uint64_t bytes_received = 0, bytes_sent = 0, peak_buffer_bytes = 0;
    uint64_t weight_bytes_received = 0, weight_bytes_from_cache = 0, weight_bytes_from_models = 0;
    uint64_t duration_us = 0;
    uint64_t computing_us = 0;  // the sum over devices that compute at the same time

    // Whether it allocated a buffer or launched a graph.
    bool did_work() const { return peak_buffer_bytes > 0 || launches > 0; }
    bool operator==(const SessionCounters &) const = default;
};

}  // namespace caravan::server
