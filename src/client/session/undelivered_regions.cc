#include "client/session/undelivered_regions.h"

#include <algorithm>

#include "client/encode/tensor_encoding.h"
#include "client/session/stream.h"

namespace caravan::client {

bool is_absent(uint32_t type, ConstBytes data) {
    const auto has_all_bits = [](std::byte b) { return b == static_cast<std::byte>(Stream::Absent::nan); };
    return !data.empty() && has_all_bits(data.front()) && has_all_bits(data.back()) && !is_integer(type) &&
           std::ranges::all_of(data, has_all_bits);
}

bool UndeliveredRegions::overlaps(const Range & range) const {
    return std::ranges::any_of(regions_, [&](const Range & other) { return other.overlaps(range); });
}

bool UndeliveredRegions::touched_by(const Footprint & graph) const {
    return std::ranges::any_of(regions_, [&](const Range & range) { return touches(graph.touched, range); });
}

void UndeliveredRegions::record_write(const Range & range, bool is_delivered) {
    std::erase_if(regions_, [&](const Range & old) { return old.begin >= range.begin && old.end <= range.end; });
    if (!is_delivered) {
        regions_.push_back(range);
    }
}

}  // namespace caravan::client
