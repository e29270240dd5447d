// The parts of a REDUCE among the spans that a server records (wire::Span::what). They lie within the span of the REDUCE.
#pragma once

#include <cstdint>

namespace caravan::wire {

enum class ReductionSpan : uint8_t {
    wait = 188,      // until all other ranks have begun to send
    transfer = 189,  // until all has been sent and received, except
    add = 190,       // the time spent on adding, in pieces
};

constexpr bool is_part_of_reduction(uint8_t what) {
    return what >= static_cast<uint8_t>(ReductionSpan::wait) && what <= static_cast<uint8_t>(ReductionSpan::add);
}

}  // namespace caravan::wire
