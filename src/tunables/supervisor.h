// The supervisor (src/server/supervisor).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// What is handled at once, so that no client, listener or worker delays the others.
inline constexpr int commands_at_once = 16, accepts_at_once = 64, messages_at_once = 64;
inline constexpr seconds accept_pause{1};        // after a failure such as too many open files
inline constexpr seconds drop_report_pause{10};  // between log lines about dropped clients
// If clients must be dropped, those that have sent nothing for this long are dropped first.
inline constexpr milliseconds first_data_timeout{200};
inline constexpr milliseconds handover_retry_pause{100};  // after a client could not be handed to a worker

// A client that waits for a session gets its place in the queue after this time: programs close a session and begin the
// next one at once, before the first one's worker has ended.
inline constexpr milliseconds queue_report_delay{100};
// A client has waited for min_contention_wait before an idle session is asked to end for it. Sessions that are asked have
// contention_response_time to end before others are asked.
inline constexpr seconds min_contention_wait{1};
inline constexpr milliseconds contention_response_time{500};
static_assert(queue_report_delay < min_contention_wait && contention_response_time < min_contention_wait);

// A session is half-open until its client has sent a command. From this time on, or from so many round trips of its network
// path, it ends if another client needs its place.
inline constexpr milliseconds half_open_patience{500};
inline constexpr int half_open_round_trips = 8;

// Limits for a worker process: to reply, if it is the spare one; to exit once its work is done; to exit after SIGTERM.
inline constexpr seconds worker_reply_timeout{15}, worker_exit_timeout{10}, worker_kill_grace{2};
// Without a spare worker (--no-spare), a worker ends if it has no session by this time after it has loaded. Until then it answers
// queries: most clients ask for the devices' memory, some several times, before they begin a session.
inline constexpr seconds unused_worker_lifetime{5};
// Limits for a spare worker that computes graphs of the last session: for all of them; for the graph at hand, once a client
// waits. After so many workers that exceeded one or died, the server computes no more such graphs.
inline constexpr seconds warm_up_timeout{60}, warm_up_stop_timeout{2};
// A worker that has loaded waits this long before it begins: another session, whose start caused its own, loads its model.
inline constexpr seconds warm_up_delay{1};
inline constexpr int max_warm_up_failures = 3;
// Pauses between attempts to start a worker double with each failure in a row.
inline constexpr seconds min_respawn_pause{2}, max_respawn_pause{30};
static_assert(min_respawn_pause < max_respawn_pause);
// With -p 0 and --stock-comm, which needs a second port at a fixed distance.
inline constexpr int free_port_tries = 20;
// Limit for the worker's program to print its version or its devices.
inline constexpr seconds worker_output_timeout{10};

// The supervisor wakes up at this interval to detect that it was stopped: it then wakes up too late by the time of the stop.
inline constexpr seconds heartbeat{5}, min_logged_lateness{3};

// Log lines that a session may write at once, and those of all sessions and of one address, with how many more a second.
inline constexpr uint32_t session_line_burst = 100;
inline constexpr double all_session_lines = 2000, all_session_lines_rate = 50;
inline constexpr double address_session_lines = 500, address_session_lines_rate = 10;
static_assert(session_line_burst <= address_session_lines && address_session_lines <= all_session_lines);

// Clients without a session: wanted, and the fewest that the limit of open files must leave. Open files of a worker: usual, and
// the fewest.
inline constexpr size_t max_waiting_clients = 256, min_waiting_clients = 8;
inline constexpr size_t max_worker_files = 4096, min_worker_files = 256;
static_assert(min_waiting_clients < max_waiting_clients && min_worker_files < max_worker_files);

}  // namespace caravan::tunable
