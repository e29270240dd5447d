// Regions of a server whose last writer was lost, or sent absent data. A launch that reads one of them must fail.
//
// Absent data has all bits set (Stream::Absent::nan). The client returns it for reads from a lost server, and recognizes it
// when the program writes it to another server.
//
// Bookkeeping over addresses only: no I/O. One object per connection, guarded by the connection's lock.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "client/session/idle_writes.h"

namespace caravan::client {

// Whether these bytes of a tensor are absent data. Integers with all bits set are valid values, so they never are.
bool is_absent(uint32_t type, ConstBytes data);

class UndeliveredRegions {
public:
    bool empty() const { return regions_.empty(); }
    bool overlaps(const Range & range) const;
    // Whether a graph reads one of them.
    bool touched_by(const Footprint & graph) const;

    // The program or another server overwrites the region. `is_delivered`: with data that is not absent.
    void record_write(const Range & range, bool is_delivered);

private:
    std::vector<Range> regions_;
};

}  // namespace caravan::client
