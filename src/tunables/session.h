// Worker processes and sessions (src/server/session, graph, ipc and worker).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// Bytes that the control channel buffers towards a worker; the kernel doubles it. A message takes about 1300.
inline constexpr int control_buffer_size = 12 * KiB;
// For the supervisor's reply, which is immediate unless the machine is overloaded.
inline constexpr seconds supervisor_reply_timeout{10};
// Bytes. A change of a session's memory beside its buffers is reported from this on.
inline constexpr uint64_t min_reported_change = 16 * MiB;
// Bytes for ggml's own memory while it computes, beside --max-memory.
inline constexpr uint64_t computing_memory = 1024 * MiB;

// After the client has left, a session has this long to end by itself.
inline constexpr milliseconds session_farewell{500};
// Time for a client to complete a message that it began, or to read a reply.
inline constexpr seconds client_stall_timeout{60};
static_assert(supervisor_reply_timeout < client_stall_timeout);
// If nothing follows a launch on a GPU for this long, the session waits for the GPU, to know how long it computed. If that is
// its only device, it reads no command until the GPU is done, so this is short only while the client records a timeline.
inline constexpr microseconds launch_follow_up{10'000}, launch_follow_up_recorded{100};
// A client that reconnects, and was silent for this long, is logged.
inline constexpr seconds min_logged_silence{10};

// Bytes. Data of buffers that the processor cannot address pass through pieces of this size; long transfers use several, so
// that one is copied while the next arrives.
inline constexpr size_t staging_size = 1 * MiB, staging_pieces = 3;
// Bytes. Weights that are also stored in the cache are received in pieces of this size.
inline constexpr size_t cached_piece = 4 * MiB;
// Bytes of host memory for a session's graphs, several times those of 128 batch shapes of a large model.
inline constexpr uint64_t max_graph_memory = 1024 * MiB;
inline constexpr size_t max_stale_ranges = 16 * 1024;  // beyond them, all are merged into one

// Bytes that a spare worker allocates to compute a graph of an earlier session, each for row numbers, for other sources and for
// results. Nodes with larger tensors are left out.
inline constexpr uint64_t max_warm_up_memory = 1024 * MiB;
// The graphs that a session leaves to later workers: tensors that are considered, and bytes that remain of them.
inline constexpr size_t max_warm_up_tensors = 256 * 1024, warm_up_bytes = 512 * KiB;

// Bytes. Touching pages ahead saves time for writes of min_touched_write and more. It goes at most max_touched_ahead beyond the
// end of a write, which bounds the memory of a buffer that is never filled, and checks for a new request after each piece.
inline constexpr size_t min_touched_write = 1 * MiB, max_touched_ahead = 32 * MiB, touched_piece = 2 * MiB;
static_assert(touched_piece < max_touched_ahead);
// Bytes. CPU buffers of this size and more are pages of their own, over which blobs can be mapped.
inline constexpr uint64_t min_paged_buffer = 1 * MiB;

}  // namespace caravan::tunable
