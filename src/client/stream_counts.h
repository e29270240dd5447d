// What a stream has done so far.
#pragma once

#include <cstdint>

namespace caravan::client {

struct StreamCounts {
    uint64_t sends = 0;  // how often the transport took bytes
    uint64_t bytes_sent = 0, bytes_received = 0;
    // Waits for an answer that was not here when it was wanted. Those between two sends count as one: what came in
    // behind the first answer has cost no trip of its own.
    uint64_t round_trips = 0;
    uint64_t waiting_ns = 0;  // in such waits, what was sent during them included
    uint64_t sending_ns = 0;  // until the transport had taken what was to leave at once

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
