// Links and reductions (src/server/links).
#pragma once

#include <array>
#include <cstddef>

#include "tunables/units.h"

namespace caravan::tunable {

// Time for the server at the other end to complete a message that it began, or to receive one.
inline constexpr seconds link_stall_timeout{60};
// To connect to the other server, and to wait for one that connects. The client sends TAKE only after the other server has
// connected, so only the handshake's thread can be late.
inline constexpr seconds link_connect_timeout{3}, link_connect_wait{10};
static_assert(link_connect_timeout < link_connect_wait);
// A link begins over TCP. If the session uses RDMA, the link is likely to switch to it: its first use waits for so long.
inline constexpr milliseconds link_upgrade_wait{500};
// Bytes that one sender queues; all senders of a session share twice this. They are queued in pieces, so that the limit is
// exceeded by little.
inline constexpr size_t max_link_backlog = 256 * MiB, link_piece = 4 * MiB;
static_assert(link_piece < max_link_backlog);

// ---- Reductions

// Bytes. Data is added in pieces as it arrives from all members. The window bounds how far a member may be ahead.
inline constexpr size_t reduction_piece = 64 * KiB, reduction_window = 4 * MiB;
static_assert(reduction_window % reduction_piece == 0);
// How long to poll for the other members' data before sleeping: they compute the same share at the same time.
inline constexpr microseconds reduction_spin{300};
// While several members are waited for, each in turn, at first; and until a client that left is noticed.
inline constexpr milliseconds reduction_turn{1}, reduction_cancel_interval{100};
static_assert(reduction_turn * 16 <= reduction_cancel_interval);  // members
// The longest time that a client may let a member wait for others, beside data at the minimum rate, bytes a second (that of a
// client which waits for a server).
inline constexpr seconds max_reduction_patience{600};
inline constexpr uint64_t min_reduction_rate = 512;
// Through shared memory: looks at it before the thread offers its processor to others; and pieces of 64 bytes of the link that
// are read after a sleep, in which the peer has sent a byte for each sleep.
inline constexpr int memory_looks = 50, most_bells = 16;
// For the server's main process to make or open shared memory.
inline constexpr seconds memory_wait{1};
// Of one session, in total, and that no other session has opened yet: further links use the network.
inline constexpr size_t max_shared_memories = 64, max_unopened_memories = 16;
// For a member that leaves the group to complete the message that it began.
inline constexpr seconds reduction_leave_timeout{2};
// A group of three or more servers measures its algorithms with tensors of these sizes, bytes, and so many times: those of one
// token, of a few, and of a prompt.
inline constexpr std::array<size_t, 3> measured_reductions{8 * KiB, 64 * KiB, 512 * KiB};
inline constexpr int measured_rounds = 3;

// ---- A stock client's comm

// For rank 1 to connect, as long as a stock one tries, and for rank 0 to wait for it.
inline constexpr seconds comm_connect_timeout{5}, comm_accept_timeout{6};
static_assert(comm_connect_timeout < comm_accept_timeout);
// For one connection attempt of rank 1, and for what it sends first. It sends at once.
inline constexpr seconds comm_greeting_timeout{1};
// Between attempts of rank 1.
inline constexpr milliseconds comm_retry_pause{50};
// How long nothing may move in a reduction. Stock clients have no time-out of their own, and a server may compile kernels.
inline constexpr seconds comm_patience{120};

}  // namespace caravan::tunable
