// Clients (src/client).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// ---- Commands (src/client/session)

// Bytes. Writes up to copy_limit are copied into the batch; longer ones are sent from the caller's memory. A batch of
// batch_limit is sent even if no command needs it.
inline constexpr size_t copy_limit = 64 * KiB, batch_limit = 1 * MiB;
static_assert(copy_limit < batch_limit);
// A session begins over TCP and switches to RDMA before it sends its first long data, unless that takes longer than this.
inline constexpr milliseconds first_upgrade_wait{500};
inline constexpr size_t max_spare_segments = 4;  // of sent batches, kept to be filled again

// While a thread waits for one server of a group, it goes on sending to the others and receiving from them: after these
// times, since it does not sleep on them. Small replies wait in the kernel meanwhile; only one that fills its buffers stops a
// server.
inline constexpr std::chrono::nanoseconds partner_send_interval = milliseconds(1), partner_receive_interval = milliseconds(20);
// As tunable::max_reduction_patience of servers.
inline constexpr seconds max_group_patience{600};
// Sums of so many rows and more are those of prompts: GGML_RPC_REDUCE applies.
inline constexpr int64_t prompt_rows = 32;
inline constexpr std::chrono::nanoseconds never = std::chrono::nanoseconds::max();

// A peer that transfers less than this, in bytes a second, while a thread waits counts as stalled: a trickle of single bytes
// must not hold the client for ever. GPRS, the slowest network in use, has 1000.
inline constexpr uint64_t min_rate = 512;
// A stall of this length is logged, although it may be a long computation.
inline constexpr seconds stall_report_after{10};

// The reason of a loss is logged again, for graphs that cannot be computed, no sooner than this after the last time.
inline constexpr seconds loss_repeat_interval{10};

// Before a launch the connection is checked, but not sooner than this after the last reply or check. After idle_before_probe
// without traffic, a query precedes the launch.
inline constexpr milliseconds launch_check_interval{1};
inline constexpr seconds idle_before_probe{1};
static_assert(launch_check_interval < idle_before_probe);

// A read that follows a launch within this time is immediate: the next launch of the graph is sent with its read.
inline constexpr microseconds immediate_read_limit{100};
// More new graphs than this in a row are not confirmed, if the last result took less than short_step.
inline constexpr int max_new_graphs = 8;
inline constexpr milliseconds short_step{5};

// Idle writes that are held back for one server: enough for every input of every copy of a pipeline.
inline constexpr size_t max_idle_regions = 64, max_idle_bytes = 64 * MiB;
static_assert(max_idle_bytes / max_idle_regions >= copy_limit);

// ---- What is known about a server

inline constexpr size_t max_cached_replies = 16 * 1024;  // of each kind and device
inline constexpr size_t max_query_history = 256;         // queries; enough for the ops of one model
inline constexpr seconds query_retry_delay{10};          // after a failed query
inline constexpr seconds open_retry_delay{10};           // after opening a session timed out
inline constexpr seconds memory_reply_lifetime{1};      // while no session of this process changes it
inline constexpr seconds held_session_lifetime{5};        // without memory or an owner, for the next back-end or buffer

// ---- Weights, traces

// Lookups without a reply, and misses in a row after which the client no longer asks before it sends.
inline constexpr size_t max_pending_finds = 64;
inline constexpr int max_consecutive_misses = 8;
inline constexpr milliseconds progress_redraw_interval{200};
inline constexpr size_t max_trace_spans = 2'000'000;

}  // namespace caravan::tunable
