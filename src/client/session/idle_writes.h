// Holds back writes that no computation reads.
//
// llama.cpp sets some inputs of a graph that only uncomputed nodes read (8 bytes for each element of the embedding, for every
// token). Which inputs these are is known only at the launches. Bytes of a write are live until a graph overwrites them. A
// region is idle while no launched graph reads live bytes of its last write. The next write of exactly that region is held
// here instead of being sent. Its live bytes are sent before any command that might observe them: a graph that touches them,
// or a read, write or copy that overlaps them.
//
// Why this is safe: the server's memory differs from what the program wrote only in live bytes of held writes, and every
// command that reads or writes some of them is preceded by them, unless it overwrites them. The first write of a region is
// always sent, so the server never holds bytes there that the program did not write.
//
// Bookkeeping over addresses only: no I/O. One object per connection, guarded by the connection's lock.
#pragma once

#include <cstdint>
#include <optional>
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
// The bytes of `ranges` that are not in `others`.
Ranges without(const Ranges & ranges, const Ranges & others);

// The memory accesses of a graph.
struct Footprint {
    Ranges touched;      // read before they are overwritten, or written in part
    Ranges overwritten;  // written completely before any read
};

// Bytes of a write that have to be sent now.
struct HeldWrite {
    Range range;
    wire::Region region;
    uint64_t offset = 0;
    std::vector<std::byte> data;
};

// The last write of a region.
struct RecentWrite {
    struct Held {
        wire::Region region;
        uint64_t offset;
        std::vector<std::byte> data;
    };
    Range range;
    Ranges live;
    bool is_idle;
    std::optional<Held> held;  // not sent
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
    static void move_live(RecentWrite & written, std::vector<HeldWrite> & out);

    std::vector<RecentWrite> written_;  // with different ranges
    bool is_stopped_ = false;
};

}  // namespace caravan::client
