// The check of a record: finds one that was lost, came twice, was cut off or altered on its way. Not against malice:
// anybody can compute it.
#pragma once

#include <span>

#include "wire/extension.h"

namespace caravan::wire {

// Of a record whose first byte of data is the stream's byte `position`: the lower 32 bits of XXH3 (64 bits, `position` is
// the seed) over `length` and `acknowledged` as they are sent, and over the data, if they are max_checked_record bytes at
// most: the first `length` bytes of `data`, which is in pieces.
uint32_t record_check(uint64_t position, const RecordHeader & header, std::span<const ConstBytes> data);

}  // namespace caravan::wire
