// Counters of a stream.
#pragma once

#include <cstdint>

namespace caravan::client {

struct StreamCounts {
    uint64_t sends = 0;  // calls in which the transport accepted bytes
    uint64_t bytes_sent = 0, bytes_received = 0;
    // Waits for a reply that had not arrived yet. Several waits between two sends count as one: the later replies cost no
    // round trip of their own.
    uint64_t round_trips = 0;
    uint64_t waiting_ns = 0;  // in such waits, including sends during them
    uint64_t sending_ns = 0;  // in flushes, until the transport had accepted the bytes

    StreamCounts operator-(const StreamCounts & before) const {
        return {sends - before.sends,
                bytes_sent - before.bytes_sent,
                bytes_received - before.bytes_received,
                round_trips - before.round_trips,
                waiting_ns - before.waiting_ns,
                sending_ns - before.sending_ns};
    }
};

}  // namespace caravan::client
