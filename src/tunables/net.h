// Connections and handshakes (src/net).
#pragma once

#include "tunables/units.h"

namespace caravan::tunable {

// TCP's keep-alive, on every socket: the loss of the peer's machine is detected within about a minute.
inline constexpr seconds keep_alive_idle{15}, keep_alive_interval{5};
inline constexpr int keep_alive_tries = 6;
static_assert(keep_alive_idle + keep_alive_tries * keep_alive_interval <= seconds(60));

// A network is lost after this long without an acknowledgement that the peer's machine owes. Only where a session can be
// resumed: others wait, because the network may recover.
inline constexpr seconds network_patience{15};
inline constexpr int silence_checks = 5;  // in this time, while a thread waits
inline constexpr int session_keep_alive_tries = 5;

// Name lookups that run at once, in threads that are abandoned at their deadline.
inline constexpr int max_lookups = 4;

// Time for a peer to complete its handshake, or a command that it has begun before its session; for a refused one to leave, if
// the supervisor or a worker refuses it.
inline constexpr seconds handshake_timeout{10}, refusal_timeout{5}, worker_refusal_timeout{2};

// A wait polls for the time that the last poll_history waits took and a margin, but not longer than the limit: what a sleep
// costs (20 to 100 us to be woken up) is not worth more. Before there are poll_min_history waits it polls for poll_start. If
// most took longer, it polls once: over RDMA that is what the waits in a long transfer need.
inline constexpr microseconds poll_start{50}, poll_limit{300}, poll_margin{10}, poll_once{1};
inline constexpr size_t poll_history = 16, poll_min_history = 4;
// Once the history is full, one of so many waits is measured: a reading of the clock is a system call on some machines.
inline constexpr size_t poll_sampling = 4;
static_assert(poll_start < poll_limit && poll_min_history <= poll_history);

}  // namespace caravan::tunable
