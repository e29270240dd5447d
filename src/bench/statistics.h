// Statistics of repeated measurements.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace caravan::bench {

struct Summary {
    double median = 0, min = 0, max = 0;
    size_t count = 0;  // 0: no measurement, and the rest is undefined
};

// For differences that cannot be negative: true if one of them is negative.
bool is_below_noise(const Summary & difference);

// The median of an even number of values is the mean of the middle two.
Summary summarize(std::vector<double> values);

// The smallest value that at least `percent` % of the values do not exceed (nearest rank). `sorted` is ascending and not
// empty.
double percentile(std::span<const double> sorted, double percent);

}  // namespace caravan::bench
