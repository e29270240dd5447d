// Weights that the server may have: whether to look them up, and the lookups whose replies were not awaited yet.
//
// After a hit the next lookup is expected to be a hit too, so its reply is not awaited: hashing, the network and the server's
// disk work concurrently. After a late miss the weight is sent from its file. After max_consecutive_misses the server is
// assumed to have none of the weights, and hashing stops.
//
// Bookkeeping only: no I/O but reading and saving digests. One object per connection, guarded by the connection's lock.
#pragma once

#include <deque>
#include <optional>

#include "client/session/idle_writes.h"
#include "client/session/stream.h"
#include "client/weights/known_digests.h"
#include "client/weights/weight_source.h"
#include "tunables/client.h"

namespace caravan::client {

class WeightLookup {
public:
    static constexpr int max_consecutive_misses = tunable::max_consecutive_misses;
    static constexpr size_t max_pending = tunable::max_pending_finds;

    // A FIND whose reply is not awaited yet.
    struct PendingFind {
        wire::Region region;
        Range range;
        uint64_t offset = 0;
        WeightSource source;  // to upload from after a miss
        uint8_t found = 0;    // receives the reply, so the object must not move
        Stream::Ticket ticket{};
    };

    // Whether the server keeps weights. Unknown until set, and for ever on a stock server, which cannot be queried.
    bool is_cache_known() const { return has_cache_.has_value(); }
    void set_cache(bool has_cache, bool finds_parts) {
        has_cache_ = has_cache;
        finds_parts_ = finds_parts;
    }
    bool is_worthwhile() const { return has_cache_.value_or(true) && consecutive_misses_ < max_consecutive_misses; }

    KnownDigests::Known digest_of(const WeightRows & data);
    // Writes digests that were computed since the last call to disk.
    void save_digests();

    // Records the reply to a lookup.
    void record(bool is_hit);
    bool expects_hit() const { return was_hit_; }

    // Pending lookups, oldest first. References stay valid until take_oldest().
    PendingFind & add(PendingFind find) { return pending_.emplace_back(std::move(find)); }
    size_t pending() const { return pending_.size(); }
    bool overlaps(const Range & range) const;
    const PendingFind & oldest() const { return pending_.front(); }
    PendingFind take_oldest();
    // The number of calls of take_oldest(): changes if another thread took the oldest while the lock was released.
    uint64_t taken() const { return taken_; }

private:
    std::optional<bool> has_cache_;
    bool finds_parts_ = false;  // by the digest of the whole tensor
    int consecutive_misses_ = 0;
    bool was_hit_ = false;
    bool has_new_digests_ = false;
    std::deque<PendingFind> pending_;
    uint64_t taken_ = 0;
};

}  // namespace caravan::client
