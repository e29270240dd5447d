#include "server/supervisor/session_summary.h"

#include <algorithm>

#include "base/counted.h"

namespace caravan::server {

SessionCounters bounded(SessionCounters reported, std::chrono::nanoseconds elapsed, size_t devices) {
    constexpr uint64_t most = uint64_t{1} << 53;
    for (uint64_t * number : {&reported.graphs_built, &reported.launches, &reported.bytes_received, &reported.bytes_sent,
                              &reported.peak_buffer_bytes, &reported.weight_bytes_received, &reported.weight_bytes_from_cache,
                              &reported.weight_bytes_from_models}) {
        *number = std::min(*number, most);
    }
    const auto elapsed_us = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count());
    reported.duration_us = std::min(reported.duration_us, elapsed_us);
    reported.computing_us = std::min(reported.computing_us, elapsed_us * std::max<size_t>(devices, 1));
    return reported;
}

std::string summary_of(const SessionCounters & counters) {
    const auto in_seconds = [](uint64_t us) { return static_cast<double>(us) / 1e6; };
    const auto mib = [](uint64_t bytes) { return bytes >> 20; };
    std::string text = formatted("{} computed {}, {} MiB in, {} MiB out, at most {} MiB of buffers; {:.1f} s, "
                                 "{:.1f} s computing",
                                 counted(counters.graphs_built, "graph"), counted(counters.launches, "time"),
                                 mib(counters.bytes_received), mib(counters.bytes_sent), mib(counters.peak_buffer_bytes),
                                 in_seconds(counters.duration_us), in_seconds(counters.computing_us));
    if (counters.computing_us > 0) {
        text += formatted(" ({:.1f} launches/s)", static_cast<double>(counters.launches) / in_seconds(counters.computing_us));
    }
    const uint64_t received = counters.weight_bytes_received, from_cache = counters.weight_bytes_from_cache,
                   from_models = counters.weight_bytes_from_models;
    if (received + from_cache + from_models > 0) {
        text += formatted("; weights: {} MiB received, {} MiB from the cache, {} MiB from model files", mib(received),
                          mib(from_cache), mib(from_models));
    }
    return text;
}

}  // namespace caravan::server
