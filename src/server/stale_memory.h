// What a session's buffers hold that is not what it seems: a launch that should have computed it failed, or another server
// did not send it. Clients wait for the results of the last server only, so a server must not send such bytes to the next
// one, nor compute from them.
//
// Ranges of addresses as the client knows them. Nothing is stale as a rule, and then nothing here costs time. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace caravan::server {

class StaleMemory {
public:
    static constexpr size_t max_ranges = 16 * 1024;

    bool empty() const { return ends_.empty(); }
    // All of [begin, end). What lies between counts as well, if there are too many ranges.
    void mark(uint64_t begin, uint64_t end);
    // [begin, end) was written, with bytes that are what they seem.
    void clear(uint64_t begin, uint64_t end);
    // Any of [begin, end).
    bool overlaps(uint64_t begin, uint64_t end) const;

private:
    void bound();

    std::map<uint64_t, uint64_t> ends_;  // by where they begin; disjoint, and not adjacent
};

}  // namespace caravan::server
