// Holds back writes that no computation reads.
//
// llama.cpp sets some inputs of a graph that only uncomputed nodes read (8 bytes for each element of the embedding, for every
// token). Which inputs these are is known only at the launch. A region is idle if it was written before a launch and the
// launched graph does not touch it, or overwrites it before reading it. The next write of exactly that region is held here
// instead of being sent. It is sent before any command that might observe it: a graph that touches the region, or a read,
// write or copy that overlaps it. A graph that overwrites the region discards the held write.
//
// Why this is safe: the server's memory differs from what the program wrote only in held regions, and every command that
// reads or writes an overlapping region is preceded by the held write, unless it overwrites the whole region. The first write
// of a region is always sent, so the server never holds bytes there that the program did not write.
//
// Bookkeeping over addresses only: no I/O. One object per connection, guarded by the connection's lock.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "wire/native.h"

namespace caravan::client {

// Bytes [begin, end) of the server's address space.
struct Range {
    uint64_t begin = 0;
    uint64_t end = 0;
    bool overlaps(const Range & other) const { return begin < other.end && other.begin < end; }
    bool operator==(const Range &) const = default;
};

// Sorted and without overlaps.
using Ranges = std::vector<Range>;
void normalize(Ranges & ranges);
bool touches(const Ranges & ranges, const Range & range);
bool covers(const Ranges & ranges, const Range & range);

// The memory accesses of a graph.
struct Footprint {
    Ranges touched;      // read before they are overwritten, or written in part
    Ranges overwritten;  // written completely before any read
};

struct HeldWrite {
    Range range;
    wire::Region region;
    uint64_t offset = 0;
    std::vector<std::byte> data;
};

class IdleWrites {
public:
    // Offers a write. True if it is held: send nothing. False: call take_overlapping(range), then send.
    bool hold(const Range & range, const wire::Region & region, uint64_t offset, ConstBytes data);

    // Records that a write of the region was sent.
    void record_sent(const Range & range);

    // Removes and returns the held writes that must be sent before a command on `range`, or a launch, oldest first.
    std::vector<HeldWrite> take_overlapping(const Range & range);
    std::vector<HeldWrite> take_for_launch(const Footprint & graph);

    // Stops holding writes, because addresses are ambiguous: two buffers overlap, as on servers whose devices use a separate
    // address space for each buffer. Removes and returns all held writes, oldest first.
    std::vector<HeldWrite> stop();

    // Drops everything in the range of a buffer that was freed or cleared.
    void forget(const Range & range);

private:
    std::vector<Range> sent_since_launch_;
    std::vector<Range> idle_;
    std::vector<HeldWrite> held_;
    bool is_stopped_ = false;
};

}  // namespace caravan::client
