// The address ranges of a session's buffers whose contents are outdated, because the launch that computes them failed or
// another server did not send them. A client waits for the results of the last server only, so a server must neither send
// stale bytes to the next server nor compute from them.
//
// Addresses are those that the client uses. Every operation is constant-time while no range is stale. Used by the session's
// thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "tunables/session.h"

namespace caravan::server {

class StaleMemory {
public:
    static constexpr size_t max_ranges = tunable::max_stale_ranges;

    bool empty() const { return ends_.empty(); }
    // Marks [begin, end) as stale. With more than max_ranges, all ranges are merged into one.
    void mark(uint64_t begin, uint64_t end);
    // Marks [begin, end) as up to date, after valid bytes were written.
    void clear(uint64_t begin, uint64_t end);
    // True if any byte of [begin, end) is stale.
    bool overlaps(uint64_t begin, uint64_t end) const;

private:
    void bound();

    std::map<uint64_t, uint64_t> ends_;  // by begin; disjoint and not adjacent
};

}  // namespace caravan::server
