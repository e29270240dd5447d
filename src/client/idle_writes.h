// Writes that no computation reads need not be sent.
//
// llama.cpp sets some inputs of a graph although only nodes that are not computed read them (8 bytes for each element
// of the embedding, for every token). Which ones is known only when the graph is launched. So: a region that was
// written before a launch, and that the launched graph does not touch, or overwrites before it reads it, is called
// idle. The next write of exactly that region is held here instead of being sent. It is sent after all as soon as
// anything might see it: a graph that touches the region, or any other read, write or copy that overlaps it. A graph
// that overwrites it makes it void.
//
// Why that is safe: the server's memory differs from what the program wrote only in the held regions, and every
// command that reads or writes an overlapping region is preceded by the held write, unless it overwrites all of it. The
// first write of a region is always sent, so the server never holds bytes there that the program did not write.
//
// Pure bookkeeping over addresses: no I/O. One object for each connection, guarded by the connection's lock.
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

// What a graph does to memory.
struct Footprint {
    Ranges touched;      // read before it is overwritten, or written in part
    Ranges overwritten;  // written as a whole before anything of it is read
};

struct HeldWrite {
    Range range;
    wire::Region region;
    uint64_t offset = 0;
    std::vector<std::byte> data;
};

class IdleWrites {
public:
    // The program writes a region. True: the data was held, send nothing. False: take_overlapping(range), then send.
    bool hold(const Range & range, const wire::Region & region, uint64_t offset, ConstBytes data);

    // A region was written (that is, sent).
    void note_sent(const Range & range);

    // The held writes that a command on `range`, or a graph, must not overtake, oldest first.
    std::vector<HeldWrite> take_overlapping(const Range & range);
    std::vector<HeldWrite> take_for_launch(const Footprint & graph);

    // Addresses do not identify bytes any more: two buffers have the same ones, as with servers whose devices have
    // address spaces of their own for each buffer. Nothing is held from now on; returns what is, oldest first.
    std::vector<HeldWrite> stop();

    // The buffer is gone.
    void forget(const Range & range);

private:
    std::vector<Range> sent_since_launch_;
    std::vector<Range> idle_;
    std::vector<HeldWrite> held_;
    bool is_stopped_ = false;
};

}  // namespace caravan::client
