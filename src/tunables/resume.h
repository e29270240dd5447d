// Resumable streams (src/net/resume), and their reconnects.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// A standalone acknowledgement is sent after 1/8 of the window unless one can piggyback.
inline constexpr uint64_t acknowledge_share = 8;
// The position is sent once if the last record has not been acknowledged for this long: the loss of a last message is noticed.
inline constexpr seconds unacknowledged_probe_after{1};
// Bytes. Short records are received into a buffer of this size.
inline constexpr size_t record_staging_size = 64 * KiB;
// Bytes received after a long record that goes to its destination directly: room for the next header and a short record.
inline constexpr size_t record_look_ahead = 4 * KiB;
static_assert(record_look_ahead < record_staging_size);

// How often the active end checks an idle connection and its lifeline.
inline constexpr seconds idle_check_interval{1};
// Limit of one attempt to reconnect; the user's limit of all attempts is GGML_RPC_RECONNECT_S.
inline constexpr seconds reconnect_attempt_timeout{3};
// Pauses between attempts double, and half of each is random: connections may be cut periodically.
inline constexpr milliseconds min_reconnect_pause{50}, max_reconnect_pause{500};
static_assert(min_reconnect_pause < max_reconnect_pause && max_reconnect_pause < reconnect_attempt_timeout);
// A connection that is lost sooner without progress counts as a failed attempt.
inline constexpr seconds min_connection_lifetime{5};
// After a reset the peer either knows about it and reconnects soon, or its process has exited.
inline constexpr seconds grace_after_reset{5};
static_assert(grace_after_reset > reconnect_attempt_timeout, "time for one attempt");

// Sessions started in place of one that the server does not know. The first command may end each of them.
inline constexpr int max_session_starts = 8;
// Attempts to open a lifeline: an older server may have none. A lifeline that lasts for min_lifeline_lifetime resets the count.
inline constexpr int max_lifeline_tries = 20;
inline constexpr seconds min_lifeline_lifetime{10};
static_assert(min_lifeline_lifetime > idle_check_interval);

// A session or link that lost RDMA tries to return to it after these pauses, which double. If RDMA works for longer than
// upgrade_min_lifetime, its next loss is a new fault, and the pauses start over. An attempt includes all of the negotiation.
inline constexpr seconds min_upgrade_pause{1}, max_upgrade_pause{60}, upgrade_min_lifetime{60}, upgrade_attempt_timeout{15};
static_assert(min_upgrade_pause < max_upgrade_pause);

}  // namespace caravan::tunable
