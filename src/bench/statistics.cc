#include "bench/statistics.h"

#include <algorithm>
#include <cmath>

namespace caravan::bench {

Summary summarize(std::vector<double> values) {
    if (values.empty()) {
        return {};
    }
    std::ranges::sort(values);
    const size_t half = values.size() / 2;
    const double median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
    return {median, values.front(), values.back(), values.size()};
}

bool is_below_noise(const Summary & difference) { return difference.count > 0 && difference.min < 0; }

double percentile(std::span<const double> sorted, double percent) {
    const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
    return sorted[std::clamp<size_t>(static_cast<size_t>(rank), 1, sorted.size()) - 1];
}

}  // namespace caravan::bench
