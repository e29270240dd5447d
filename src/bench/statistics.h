// What repeated measurements of one thing say.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace caravan::bench {

struct Summary {
    double median = 0, min = 0, max = 0;
    size_t count = 0;  // 0: nothing was measured, the rest means nothing
};

// Of differences between two measurements that cannot be negative: some round has one that is.
bool is_below_noise(const Summary & difference);

// Of an even number of values the median is the mean of the two in the middle.
Summary summarize(std::vector<double> values);

// The smallest of the values that `percent` of 100 values do not exceed (nearest rank). `sorted` is ascending and not
// empty.
double percentile(std::span<const double> sorted, double percent);

}  // namespace caravan::bench
