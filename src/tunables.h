// Constants that somebody may want to turn, with their units and reasons. What the protocol fixes (src/wire) and what a user sets
// (base/config.h, command lines) is not here; neither are bounds on what a peer sends.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace caravan::tunable {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

inline constexpr size_t KiB = 1024, MiB = 1024 * KiB;

// ---- Connections (src/net, base/retry.h)

// TCP's keep-alive, on every socket: the loss of the peer's machine is detected within about a minute.
inline constexpr seconds keep_alive_idle{15}, keep_alive_interval{5};
inline constexpr int keep_alive_tries = 6;
static_assert(keep_alive_idle + keep_alive_tries * keep_alive_interval <= seconds(60));

// A network is lost after this long without an acknowledgement that the peer's machine owes. Only where a session can be
// resumed: others wait, because the network may recover.
inline constexpr seconds network_patience{15};
inline constexpr int silence_checks = 5;  // in this time, while a thread waits
inline constexpr int session_keep_alive_tries = 5;

// Connections that are reset while they are opened are tried again after growing pauses, which add up to about 6.4 s.
inline constexpr int max_attempts = 8;
inline constexpr milliseconds first_retry_pause{50};

// Name lookups that run at once, in threads that are abandoned at their deadline.
inline constexpr int max_lookups = 4;

// ---- Resumable streams (src/net/resume)

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

// ---- RDMA (src/net/rdma)

// One ring has ring_depth slots to receive, and as many to send; a message fills one slot. 3 MiB of locked memory for a session.
inline constexpr uint32_t ring_slot_size = 64 * KiB;
inline constexpr uint32_t ring_depth = 24;
// Slots that only messages without data use, to return credits. Such a message is sent when a third of the data slots are owed,
// so at most three are in flight, in each direction. Both peers count with these: a change needs another token (proof.cc).
inline constexpr uint32_t ring_reserved_slots = 6;
inline constexpr uint32_t ring_credit_share = 3;
static_assert(ring_reserved_slots > ring_credit_share && ring_depth > ring_reserved_slots);
// Every depth/4-th send requests a completion, so send slots become free in time.
inline constexpr uint32_t ring_signal_share = 4;
static_assert(ring_depth / ring_signal_share > 0 && ring_depth / ring_signal_share <= ring_depth - ring_reserved_slots);
inline constexpr unsigned ring_ack_batch = 64;  // completion events acknowledged together: each acknowledgement takes a mutex
// Bytes of inline data, tried in this order: a device refuses what it does not support.
inline constexpr uint32_t ring_inline_sizes[] = {316, 256, 96, 64, 0};
static_assert(ring_inline_sizes[0] < ring_slot_size);
// An empty WRITE after this silence detects the loss of the peer. The connection has failed if it is not completed in time.
inline constexpr seconds ring_probe_after{5}, ring_probe_patience{10};

// A packet is retransmitted after 0.54 s, 6 times (GGML_RDMA_TIMEOUT, GGML_RDMA_RETRY): an interruption of up to 3 s, such as a
// storm of pause frames, does not end the connection, and a dead peer is detected in 4 s. A port that is down for this long
// ends it earlier:
inline constexpr seconds rdma_port_patience{1};
// Credits guarantee that a receive is posted for every message, so receiver-not-ready (RNR) is an error.
inline constexpr uint8_t queue_pair_rnr_timer = 12, queue_pair_rnr_retries = 3;
static_assert(queue_pair_rnr_retries < 7, "7 means without limit");

// A stock server connects its queue pair after its reply to HELLO. A message that arrives earlier is retransmitted 0.5 s later.
inline constexpr milliseconds stock_server_delay{10};

// Limits of negotiating RDMA: for the first messages over it, and for the client's verdict, which follows both. The client
// waits less, so that a network that loses RDMA's packets delays a session by little more than a second. The server counts from
// its reply to the offer: a client that stays silent then occupies a session for rdma_verdict_timeout.
inline constexpr milliseconds rdma_proof_timeout{1200};
inline constexpr seconds rdma_failure_memory{60};  // during which the process does not try again with that server
inline constexpr seconds rdma_token_timeout{3}, rdma_verdict_timeout{5};
static_assert(rdma_verdict_timeout > rdma_token_timeout + rdma_proof_timeout && rdma_token_timeout > 2 * rdma_proof_timeout);

// ---- Client: commands (src/client/session)

// Bytes. Writes up to copy_limit are copied into the batch; longer ones are sent from the caller's memory. A batch of batch_limit
// is sent even if no command needs it.
inline constexpr size_t copy_limit = 64 * KiB, batch_limit = 1 * MiB;
static_assert(copy_limit < batch_limit);
inline constexpr size_t max_spare_segments = 4;  // of sent batches, kept to be filled again

// While a thread waits for one server of a group, it goes on sending to the others and receiving from them: after these
// times, since it does not sleep on them. Small replies wait in the kernel meanwhile; only one that fills its buffers stops a
// server.
inline constexpr std::chrono::nanoseconds partner_send_interval = milliseconds(1), partner_receive_interval = milliseconds(20);
inline constexpr seconds max_group_patience{3600};
inline constexpr std::chrono::nanoseconds never = std::chrono::nanoseconds::max();

// A peer that transfers less than this, in bytes a second, while a thread waits counts as stalled: a trickle of single bytes
// must not hold the client for ever. GPRS, the slowest network in use, has 1000.
inline constexpr uint64_t min_rate = 512;
// A stall of this length is logged, although it may be a long computation.
inline constexpr seconds stall_report_after{10};

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

// ---- Client: what is known about a server

inline constexpr size_t max_cached_replies = 16 * 1024;  // of each kind and device
inline constexpr size_t max_query_history = 256;         // queries; enough for the ops of one model
inline constexpr seconds query_retry_delay{10};          // after a failed query
inline constexpr seconds open_retry_delay{10};           // after opening a session timed out
inline constexpr seconds memory_reply_lifetime{1};      // while no session of this process changes it

// ---- Client: weights, traces

// Lookups without a reply, and misses in a row after which the client no longer asks before it sends.
inline constexpr size_t max_pending_finds = 64;
inline constexpr int max_consecutive_misses = 8;
inline constexpr milliseconds progress_redraw_interval{200};
inline constexpr size_t max_trace_spans = 2'000'000;

// ---- Server: supervisor

// Time for a peer to complete its handshake, or a command that it has begun before its session; for a refused one to leave, if
// the supervisor or a worker refuses it.
inline constexpr seconds handshake_timeout{10}, refusal_timeout{5}, worker_refusal_timeout{2};
// What is handled at once, so that no client, listener or worker delays the others.
inline constexpr int commands_at_once = 16, accepts_at_once = 64, messages_at_once = 64;
inline constexpr seconds accept_pause{1};        // after a failure such as too many open files
inline constexpr seconds drop_report_pause{10};  // between log lines about dropped clients
// If clients must be dropped, those that have sent nothing for this long are dropped first.
inline constexpr milliseconds first_data_timeout{200};
static_assert(first_data_timeout < handshake_timeout);
inline constexpr milliseconds handover_retry_pause{100};  // after a client could not be handed to a worker

// A client that waits for a session gets its place in the queue after this time: programs close a session and begin the
// next one at once, before the first one's worker has ended.
inline constexpr milliseconds queue_report_delay{100};
// A client has waited for min_contention_wait before an idle session is asked to end for it. Sessions that are asked have
// contention_response_time to end before others are asked.
inline constexpr seconds min_contention_wait{1};
inline constexpr milliseconds contention_response_time{500};
static_assert(queue_report_delay < min_contention_wait && contention_response_time < min_contention_wait);

// Limits for a worker process: to reply, if it is the spare one; to exit once its work is done; to exit after SIGTERM.
inline constexpr seconds worker_reply_timeout{15}, worker_exit_timeout{10}, worker_kill_grace{2};
// Pauses between attempts to start a worker double with each failure in a row.
inline constexpr seconds min_respawn_pause{2}, max_respawn_pause{30};
static_assert(min_respawn_pause < max_respawn_pause);
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

// ---- Server: worker processes and sessions

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
static_assert(session_farewell < worker_exit_timeout);
// Time for a client to complete a message that it began, or to read a reply; the same for a server at a link's other end.
inline constexpr seconds client_stall_timeout{60}, link_stall_timeout{60};
static_assert(supervisor_reply_timeout < client_stall_timeout);
// A client that reconnects, and was silent for this long, is logged.
inline constexpr seconds min_logged_silence{10};

// Bytes. Data of buffers that the processor cannot address pass through memory of this size.
inline constexpr size_t staging_size = 4 * MiB;
// Bytes of host memory for a session's graphs, several times those of 128 batch shapes of a large model.
inline constexpr uint64_t max_graph_memory = 1024 * MiB;
inline constexpr size_t max_stale_ranges = 16 * 1024;  // beyond them, all are merged into one

// Bytes. Touching pages ahead saves time for writes of min_touched_write and more. It goes at most max_touched_ahead beyond the
// end of a write, which bounds the memory of a buffer that is never filled, and checks for a new request after each piece.
inline constexpr size_t min_touched_write = 1 * MiB, max_touched_ahead = 32 * MiB, touched_piece = 2 * MiB;
static_assert(touched_piece < max_touched_ahead);
// Bytes. CPU buffers of this size and more are pages of their own, over which blobs can be mapped.
inline constexpr uint64_t min_paged_buffer = 1 * MiB;

// ---- Server: links

// To connect to the other server, and to wait for one that connects. The client sends TAKE only after the other server has
// connected, so only the handshake's thread can be late.
inline constexpr seconds link_connect_timeout{3}, link_connect_wait{10};
static_assert(link_connect_timeout < link_connect_wait);
// Bytes that one sender queues; all senders of a session share twice this. They are queued in pieces, so that the limit is
// exceeded by little.
inline constexpr size_t max_link_backlog = 256 * MiB, link_piece = 4 * MiB;
static_assert(link_piece < max_link_backlog);

// ---- Server: reductions

// Bytes. Data is added in pieces as it arrives from all members. The window bounds how far a member may be ahead.
inline constexpr size_t reduction_piece = 64 * KiB, reduction_window = 4 * MiB;
static_assert(reduction_window % reduction_piece == 0);
// How long to poll for the other members' data before sleeping: they compute the same share at the same time.
inline constexpr microseconds reduction_spin{300};
// While several members are waited for, each in turn; and until a client that left is noticed.
inline constexpr milliseconds reduction_turn{1}, reduction_cancel_interval{100};
// For a member that leaves the group to complete the message that it began.
inline constexpr seconds reduction_leave_timeout{2};

// ---- Weight cache (src/cache)

// A file in tmp/ that is older, and that no process has locked, was left by a process that died. Without locks, no upload
// pauses for so long between two writes.
inline constexpr minutes abandoned_upload_age{5};
inline constexpr hours abandoned_upload_age_without_locks{24};
static_assert(abandoned_upload_age < abandoned_upload_age_without_locks);
// The digests of a large file are saved while it is being hashed, so that they can be used early and survive a restart. Older
// temporary files in their folder were left by a process that died.
inline constexpr seconds digest_save_interval{10}, foreign_digest_age{60};
static_assert(digest_save_interval < foreign_digest_age);
// Bytes. Smaller content does not pay for a thread that hashes, or for a mapping.
inline constexpr uint64_t min_background_hash = 4 * MiB, min_mapped_blob = 256 * KiB;
// Bytes. Upper bound of one reservation that needs eviction; without, at most 1/16 of the free space is reserved at once.
inline constexpr uint64_t max_reservation = 64 * MiB, free_space_divisor = 16;
// Bytes. File systems allocate up to this many bytes more than a file has.
inline constexpr uint64_t allocation_slack = 64 * KiB;

}  // namespace caravan::tunable
