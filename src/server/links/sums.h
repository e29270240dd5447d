// Sums of several terms in one fixed order, and the conversion of terms to less precision.
//
// The order is that of recursive doubling, so that every algorithm of an all-reduce gives the same bits: with p the largest
// power of two that is not above n, term p + i is added to term i; then neighbours are added, then neighbouring pairs, and
// so on. Three terms: (0 + 2) + 1.
#pragma once

#include <cstdint>
#include <span>

namespace caravan::server {

// sum += term. Same sizes; no overlap.
void add_to(std::span<float> sum, std::span<const float> term);

// Adds up `terms`, arrays of `size` elements, at least one. The first has the sum afterwards; the others are undefined.
void sum_up(std::span<float * const> terms, size_t size);

// To and from bfloat16, the upper half of a float, rounded to nearest even. Same sizes. A NaN remains one.
void to_bfloat16(std::span<const float> values, std::span<uint16_t> out);
void from_bfloat16(std::span<const uint16_t> values, std::span<float> out);

}  // namespace caravan::server
