// Rounds and progress, for both benchmarks.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

namespace caravan::bench {

// Receives lines of progress, without a newline.
using Progress = std::function<void(std::string_view line)>;

// The index, of `count`, that is measured at `position` in a round. Each round begins with the next index.
inline size_t turn(size_t round, size_t position, size_t count) { return (round + position) % count; }

}  // namespace caravan::bench
