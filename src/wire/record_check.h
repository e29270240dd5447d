// The checksum of a record. Detects records that were lost, duplicated, truncated or altered in transit. No protection
// against an attacker.
#pragma once

#include <span>

#include "wire/extension.h"

namespace caravan::wire {

// The lower 32 bits of XXH3 (64 bits) over header.length, header.acknowledged and, if header.length is at most
// max_checked_record, the first header.length bytes of `data`. The seed is `position`, the offset in the stream of the
// first byte of the record.
uint32_t record_check(uint64_t position, const RecordHeader & header, std::span<const ConstBytes> data);

}  // namespace caravan::wire
