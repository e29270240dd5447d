#include "client/weights/weight_lookup.h"

#include <algorithm>
#include <utility>

namespace caravan::client {

KnownDigests::Known WeightLookup::digest_of(const WeightRows & data) {
    has_new_digests_ = true;
    return KnownDigests::instance().digest_of(data, finds_parts_ ? KnownDigests::Scope::and_whole : KnownDigests::Scope::data);
}

void WeightLookup::save_digests() {
    if (std::exchange(has_new_digests_, false)) {
        KnownDigests::instance().save();
    }
}

void WeightLookup::record(bool is_hit) {
    was_hit_ = is_hit;
    consecutive_misses_ = is_hit ? 0 : consecutive_misses_ + 1;
}

bool WeightLookup::overlaps(const Range & range) const {
    return std::ranges::any_of(pending_, [&](const PendingFind & find) { return find.range.overlaps(range); });
}

WeightLookup::PendingFind WeightLookup::take_oldest() {
    PendingFind find = std::move(pending_.front());
    pending_.pop_front();
    ++taken_;
    return find;
}

}  // namespace caravan::client
