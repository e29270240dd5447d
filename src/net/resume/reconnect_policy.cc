#include "net/resume/reconnect_policy.h"

#include <algorithm>

namespace caravan::net {

void ReconnectPolicy::watch_peer(bool is_watched) {
    peer_is_watched_ = is_watched;
    peer_was_watched_ = peer_was_watched_ || is_watched;
}

std::optional<milliseconds> ReconnectPolicy::on_lost(Errc code, uint64_t progress, TimePoint now) {
    const bool is_closed_by_peer = peer_has_ended_ || (code == Errc::closed && !peer_is_watched_);
    if (grace_.count() == 0 || (is_passive_ && (is_closed_by_peer || code == Errc::protocol))) {
        return std::nullopt;
    }
    const bool may_have_ended = is_passive_ && code == Errc::reset && !peer_was_watched_;
    const milliseconds grace = may_have_ended ? std::min<milliseconds>(grace_, grace_after_reset) : grace_;
    // A connection without progress counts as a failed attempt: the deadline stays, and the back-off grows.
    if (progress != progress_ || now - connected_at_ > min_lifetime) {
        progress_ = progress;
        next_attempt_at_ = now;
        give_up_at_ = now + grace;
        backoff_ = min_backoff;
    } else {
        back_off(now);
    }
    return grace;
}

void ReconnectPolicy::on_attempt_failed(TimePoint now) { back_off(now); }

void ReconnectPolicy::back_off(TimePoint now) {
    next_attempt_at_ = now + jitter_(backoff_);
    backoff_ = std::min(2 * backoff_, max_backoff);
}

}  // namespace caravan::net
