#include "wire/record_check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

namespace caravan::wire {

uint32_t record_check(uint64_t position, const RecordHeader & header, std::span<const ConstBytes> data) {
    std::byte fields[sizeof header.length + sizeof header.acknowledged];
    store(fields, header.length);
    store(fields + sizeof header.length, header.acknowledged);
    if (header.length == 0 || header.length > max_checked_record) {
        return static_cast<uint32_t>(XXH3_64bits_withSeed(fields, sizeof fields, position));
    }
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, position);
    XXH3_64bits_update(&state, fields, sizeof fields);
    size_t left = header.length;
    for (const ConstBytes piece : data) {
        const size_t size = std::min(piece.size(), left);
        XXH3_64bits_update(&state, piece.data(), size);
        left -= size;
    }
    return static_cast<uint32_t>(XXH3_64bits_digest(&state));
}

}  // namespace caravan::wire
