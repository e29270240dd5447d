// Rows of a file, of a tensor or of memory: pieces of equal size at a constant distance. A tensor that is split among servers
// consists of them. Read one after the other they are the packed bytes.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace caravan::cache {

struct Rows {
    uint64_t offset = 0;  // of the first row, bytes
    uint64_t size = 0;    // of each row, bytes
    uint64_t count = 1;
    uint64_t stride = 0;  // from row to row, bytes; at least `size` if there are several

    static Rows contiguous(uint64_t offset, uint64_t size) { return {offset, size, 1, size}; }

    bool is_contiguous() const { return count == 1; }
    uint64_t bytes() const { return size * count; }                 // packed
    uint64_t span() const { return (count - 1) * stride + size; }   // with the gaps
    // The offset of a packed byte.
    uint64_t position(uint64_t packed) const { return offset + packed / size * stride + packed % size; }

    // Whether there are bytes, no row overlaps the next one, and all lie before `end`. Call this first if the numbers come from
    // outside: the functions above do not check them.
    bool are_within(uint64_t end) const;

    bool operator==(const Rows &) const = default;
};

// Copies packed bytes of `rows` into `to`, from the packed byte `begin` on. `memory` has the bytes from position(begin) on, and
// may end early. Returns the number of bytes copied.
size_t copy_packed(const Rows & rows, uint64_t begin, ConstBytes memory, MutableBytes to);

}  // namespace caravan::cache
