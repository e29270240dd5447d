// RDMA (src/net/rdma).
#pragma once

#include <cstdint>

#include "tunables/units.h"

namespace caravan::tunable {

// One ring has ring_depth slots to receive, and as many to send; a message fills one slot. 3 MiB of locked memory for a
// session.
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
// While data of several slots is in flight, a wait that polls at all (GGML_RPC_POLL_US) polls for this time after each
// completed slot: to sleep for each one costs more CPU time. A slot takes 5 us at 100 Gb/s, 0.2 ms on Soft-RoCE, 0.5 ms at
// 1 Gb/s.
inline constexpr microseconds ring_transfer_spin{500};
// With several queue pairs, long data goes over the one with the fewest slots in flight. If that has no credits, it is waited
// for while all others have more than this many slots more in flight: they are slower, and more data over them would delay
// what overtakes it.
inline constexpr uint32_t ring_rail_lead = 2;
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
inline constexpr milliseconds rdma_proof_spin{10};    // of waiting, during which it polls;
inline constexpr microseconds rdma_proof_pause{200};  // then it sleeps between polls
// Once a queue pair is proven, the others have this long: those that are not proven then are left out.
inline constexpr milliseconds rdma_rail_patience{300};
static_assert(rdma_rail_patience < rdma_proof_timeout);
// A session may close while it negotiates in the background. If no message got through for this long, RDMA has failed.
inline constexpr milliseconds rdma_cancelled_proof{250};
static_assert(rdma_proof_spin < rdma_cancelled_proof && rdma_cancelled_proof < rdma_proof_timeout);
inline constexpr seconds rdma_failure_memory{60};  // during which the process does not try again with that server
inline constexpr seconds rdma_token_timeout{3}, rdma_verdict_timeout{5};
static_assert(rdma_verdict_timeout > rdma_token_timeout + rdma_proof_timeout && rdma_token_timeout > 2 * rdma_proof_timeout);

}  // namespace caravan::tunable
