// Decides after the loss of a connection whether, when and for how long a resumable stream waits for a new one. Pure: the
// caller passes the time. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "tunables/resume.h"

namespace caravan::net {

class ReconnectPolicy {
public:
    static constexpr milliseconds min_backoff = tunable::min_reconnect_pause, max_backoff = tunable::max_reconnect_pause;
    static constexpr seconds min_lifetime = tunable::min_connection_lifetime;
    static constexpr seconds grace_after_reset = tunable::grace_after_reset;

    using Jitter = std::function<microseconds(microseconds backoff)>;  // the actual pause for a back-off

    // `is_passive`: the peer makes the new connections. `grace`: how long to wait for one; 0: not at all.
    ReconnectPolicy(bool is_passive, milliseconds grace, Jitter jitter)
        : is_passive_(is_passive), grace_(grace), jitter_(std::move(jitter)) {}

    // Passive end: a lifeline now reports the exit of the peer's process, or no longer does.
    void watch_peer(bool is_watched);
    void peer_ended() { peer_has_ended_ = true; }
    bool peer_has_ended() const { return peer_has_ended_; }

    // The connection failed with `code`. Returns how long to wait for a new one; nullopt: the stream ends. `progress`:
    // total bytes of both directions that have reached their receiver.
    std::optional<milliseconds> on_lost(Errc code, uint64_t progress, TimePoint now);
    void on_attempt_failed(TimePoint now);
    void on_reconnected(TimePoint now) { connected_at_ = now; }

    // While disconnected. The first is for the active end.
    TimePoint next_attempt_at() const { return next_attempt_at_; }
    TimePoint give_up_at() const { return give_up_at_; }

private:
    void back_off(TimePoint now);

    const bool is_passive_;
    const milliseconds grace_;
    const Jitter jitter_;
    bool peer_is_watched_ = false, peer_was_watched_ = false, peer_has_ended_ = false;
    TimePoint connected_at_{}, next_attempt_at_{}, give_up_at_{};
    std::optional<uint64_t> progress_;  // at the last loss
    milliseconds backoff_{0};
};

}  // namespace caravan::net
