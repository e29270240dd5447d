// The weight cache (src/cache, src/indexer).
#pragma once

#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// A file in tmp/ that is older, and that no process has locked, was left by a process that died. Without locks, no upload
// pauses for so long between two writes.
inline constexpr minutes abandoned_upload_age{5};
inline constexpr hours abandoned_upload_age_without_locks{24};
static_assert(abandoned_upload_age < abandoned_upload_age_without_locks);
// The digests of a large file are saved while it is being hashed, so that they can be used early and survive a restart. Older
// temporary files in their folder were left by a process that died.
inline constexpr seconds digest_save_interval{10}, foreign_digest_age{60};
static_assert(digest_save_interval < foreign_digest_age);
// Bytes. Smaller content does not pay for a thread that hashes, or for a mapping.
inline constexpr uint64_t min_background_hash = 4 * MiB, min_mapped_blob = 256 * KiB;
// Bytes. Smaller rows are read together with the gaps between them.
inline constexpr uint64_t min_row_read = 64 * KiB;
// Bytes. Upper bound of one reservation that needs eviction; without, at most 1/16 of the free space is reserved at once.
inline constexpr uint64_t max_reservation = 64 * MiB, free_space_divisor = 16;
// Bytes. File systems allocate up to this many bytes more than a file has.
inline constexpr uint64_t allocation_slack = 64 * KiB;

}  // namespace caravan::tunable
