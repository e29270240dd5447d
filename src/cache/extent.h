// A part of a file.
#pragma once

#include <cstdint>

namespace caravan::cache {

struct Extent {
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t size = 0;    // bytes

    bool operator==(const Extent &) const = default;
};

}  // namespace caravan::cache
