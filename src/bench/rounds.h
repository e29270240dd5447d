// What both benchmarks have in common: measuring in rounds, and telling of it.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

namespace caravan::bench {

// Where lines of progress go.
using Say = std::function<void(std::string_view line)>;

// Which of `count` things is measured as the position-th of a round: each round begins with the next one.
inline size_t turn(size_t round, size_t position, size_t count) { return (round + position) % count; }

}  // namespace caravan::bench
