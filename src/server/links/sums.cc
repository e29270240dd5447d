#include "server/links/sums.h"

#include <bit>
#include <cstddef>

namespace caravan::server {
namespace {

uint16_t rounded(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) {  // a NaN: rounding could make it an infinity
        return static_cast<uint16_t>(bits >> 16 | 0x40);
    }
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

void add_to(std::span<float> sum, std::span<const float> term) {
    float * const out = sum.data();
    const float * const in = term.data();
    for (size_t i = 0, size = sum.size(); i < size; ++i) {
        out[i] += in[i];
    }
}

void sum_up(std::span<float * const> terms, size_t size) {
    const auto add = [&](size_t to, size_t from) { add_to({terms[to], size}, {terms[from], size}); };
    const size_t pairs = std::bit_floor(terms.size());
    for (size_t i = pairs; i < terms.size(); ++i) {
        add(i - pairs, i);
    }
    for (size_t distance = 1; distance < pairs; distance *= 2) {
        for (size_t i = 0; i < pairs; i += 2 * distance) {
            add(i, i + distance);
        }
    }
}

void to_bfloat16(std::span<const float> values, std::span<uint16_t> out) {
    for (size_t i = 0; i < values.size(); ++i) {
        out[i] = rounded(values[i]);
    }
}

void from_bfloat16(std::span<const uint16_t> values, std::span<float> out) {
    for (size_t i = 0; i < values.size(); ++i) {
        out[i] = std::bit_cast<float>(uint32_t{values[i]} << 16);
    }
}

}  // namespace caravan::server
