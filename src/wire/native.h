// The native dialect: the commands that only two Caravan peers use, in the stock frame (u8 command, u64 size, payload). A
// session may mix both dialects. Layouts and the difference coding of graphs: no I/O, no ggml calls. docs/protocol.md has
// the complete table.
//
// Each generated token repeats the same few commands, so they are short: the client declares a tensor or a graph once,
// under a slot that it chooses, and then names it by the slot. A slot holds what the client last put there; only the
// number of slots is fixed.
//
// Replies have the stock frame (u64 size, payload), with a ReplyKind in the topmost byte of the size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/stock.h"

namespace caravan::wire {

inline constexpr uint16_t max_tensor_slots = 4096;
inline constexpr uint16_t max_graph_slots = 4096;         // per session, shared by its devices
inline constexpr uint32_t max_graph_tensors = 1 << 18;    // in one graph
inline constexpr uint32_t max_session_tensors = 1 << 20;  // in all graph slots of a session
inline constexpr size_t max_error_text = 1000;            // bytes
// The client sends FIND before it uploads more than this many bytes of weights. Lower than hash_threshold, since a FIND
// costs less than the upload that it may save.
inline constexpr size_t find_threshold = 1024 * 1024;

enum class ReplyKind : uint8_t {
    good = 0,           // the payload is the reply
    ended = 1,          // the session ends; the payload is the reason. May replace any reply
    launch_failed = 2,  // a GRAPH, LAUNCH, TAKE or REDUCE failed; the payload is the reason. No reply; the session continues
    refused = 3,        // the request failed; the payload is the reason; the session continues
};
inline constexpr int reply_kind_shift = 56;
inline constexpr uint64_t reply_size_mask = (uint64_t{1} << reply_kind_shift) - 1;

enum class NativeCommand : uint8_t {
    declare = 64,      // slot, region: binds the slot to the region. No reply
    write = 65,        // slot, keep, offset, data. No reply
    read = 66,         // slot, offset, size. Reply: the bytes
    fill = 67,         // slot, offset, size, value. No reply
    copy = 68,         // source slot, destination slot: copies the whole region. No reply
    graph = 69,        // device, slot, base slot, n, difference: stores the graph in the slot and launches it. No reply
    launch = 70,       // slot: launches the graph. No reply; see launch_failed
    supports = 71,     // device, n, difference to the empty graph. Reply: u8 for each node: 1 = supported
    find = 72,         // slot, offset, size, BLAKE3: loads the bytes from the server's disk. Reply: u8 1 = loaded
    invite = 73,       // Reply: u64 token with which another server may link with this session
    connect = 74,      // link, token, endpoint: links with that session. Reply: u8 1 = RDMA, 0 = TCP; or refused
    push = 75,         // link, slot: sends the whole region over the link. No reply
    take = 76,         // token, slot: receives the whole region from the server that holds the token. No reply
    initialize = 77,   // slot: as INIT_TENSOR. No reply
    facts = 78,        // Reply: SessionFacts
    clock = 79,        // Reply: u64 ns of the server's steady clock. Starts the recording of spans
    spans = 80,        // Reply: SpansReply. Removes the spans that it returns
    group = 81,        // group, rank, peers: forms a group with linked sessions. Reply: u8 1; or refused
    reduce = 82,       // group, tensors: all-reduce: replaces each by the sum over all ranks. No reply; see launch_failed
    find_part = 83,    // slot, offset, part of a tensor, BLAKE3 of both: as find, also if only the tensor is there
    algorithm = 84,    // group, bytes. Reply: the algorithm of reductions of this size; or refused
};
inline constexpr auto first_native = NativeCommand::declare;
inline constexpr auto last_native = NativeCommand::algorithm;
inline constexpr size_t n_native_commands = static_cast<size_t>(last_native) - static_cast<size_t>(first_native) + 1;
constexpr bool is_native(Command command) {
    return static_cast<uint8_t>(command) >= static_cast<uint8_t>(first_native) &&
           static_cast<uint8_t>(command) <= static_cast<uint8_t>(last_native);
}

// Address and shape of a tensor, in either dialect.
struct Region {
    uint32_t type = 0;
    uint64_t ne[max_dims] = {};  // elements
    uint64_t nb[max_dims] = {};  // strides, bytes
    uint64_t buffer = 0;         // handle, 0 = none
    uint64_t address = 0;        // within the buffer, 0 = none

    Region() = default;
    Region(const Tensor & tensor);
    bool operator==(const Region &) const = default;
};

#pragma pack(push, 1)

// Has no buffer handle: the address identifies the buffer on a Caravan server.
struct RegionRecord {
    uint32_t type;
    uint64_t ne[max_dims];
    uint64_t nb[max_dims];
    uint64_t address;
};

struct DeclareRequest {
    uint16_t slot;
    RegionRecord region;
};
struct WriteRequest {  // the data follows
    uint16_t slot;
    uint8_t keep;  // 1: a weight that the server should cache
    uint64_t offset;
};
struct ReadRequest {
    uint16_t slot;
    uint64_t offset, size;
};
struct FillRequest {
    uint16_t slot;
    uint64_t offset, size;
    uint8_t value;
};
struct CopyRequest {
    uint16_t from, to;
};
struct GraphRequest {  // the difference follows
    uint32_t device;
    uint16_t slot;
    uint16_t base;  // a slot, or no_base
    uint32_t n_tensors;
};
inline constexpr uint16_t no_base = UINT16_MAX;
struct LaunchRequest {
    uint16_t slot;
};
struct SupportsRequest {  // the difference follows
    uint32_t device;
    uint32_t n_tensors;
};
struct FindRequest {
    uint16_t slot;
    uint64_t offset, size;
    std::byte digest[32];
};
struct FindPartRequest {
    uint16_t slot;
    uint64_t offset;             // of the packed rows, in the region
    uint64_t at, size, count, stride;  // the rows in the tensor: the first one's offset, bytes of each, number, distance
    uint64_t tensor_size;
    std::byte digest[32];        // of the packed rows
    std::byte tensor_digest[32];
};
struct ConnectRequest {  // the endpoint follows, as text
    uint16_t link;
    uint64_t token;
};
struct PushRequest {
    uint16_t link, slot;
};
struct TakeRequest {
    uint64_t token;
    uint16_t slot;
};
struct SlotRequest {
    uint16_t slot;
};
struct SessionFacts {
    uint8_t has_cache;  // 1: FIND can succeed
    uint8_t groups;     // version of GROUP and REDUCE; 0: there are none
    uint8_t finds_parts;  // 1: FIND_PART exists
    uint8_t reports_algorithm;  // 1: ALGORITHM exists
    uint8_t unused[28];
};

// The time that the server spent on one command, from the arrival of its header; or that a device spent computing while
// the session served further commands. Nanoseconds of the server's steady clock.
struct Span {
    uint64_t begin, end;
    uint8_t what;  // a command, or computing(device)
};
inline constexpr uint8_t first_computing = 192;
constexpr uint8_t computing(uint32_t device) {
    return static_cast<uint8_t>(std::min<uint32_t>(first_computing + device, UINT8_MAX));
}
inline constexpr size_t spans_per_reply = 4096;
inline constexpr size_t max_recorded_spans = 1 << 18;  // beyond that, a server drops the oldest
struct SpansReply {
    uint32_t count;  // valid entries in `spans`; fewer than spans_per_reply if no more are recorded
    Span spans[spans_per_reply];
};

// Server to server, on a link. The data follows.
struct PushHeader {
    uint64_t number;  // counts the pushes on this link, from 0
    uint64_t size;    // bytes, or push_absent
};
// No data follows, because the launch that computes it failed.
inline constexpr uint64_t push_absent = UINT64_MAX;

// A group of sessions on different servers, the ranks, which add up tensors. All form the same group, each with its own
// number for it.
inline constexpr uint8_t groups_version = 2;
inline constexpr size_t max_ranks = 16;
inline constexpr uint16_t max_groups = 64;  // of a session
struct GroupRequest {  // a GroupPeer for each rank follows
    uint16_t group;
    uint8_t rank;       // this session's
    uint8_t n_ranks;
    uint16_t patience;  // how long to wait for a rank that sends nothing, seconds; not 0
};
struct GroupPeer {
    uint64_t token;     // of the link that the peer opened; 0: this session opened it
    uint16_t link;      // its number then
};
// The tensors are of type f32, contiguous, and of equal size, here and at all ranks. Their sum over devices and ranks
// replaces each of them.
enum class Precision : uint8_t { f32 = 0, bf16 = 1 };  // of what the ranks send to each other
struct ReduceRequest {  // u16 slots follow, one for each tensor
    uint16_t group;
    uint16_t zero;  // bit i: tensor i was not computed, and counts as zeros
    Precision precision;
};
// How the ranks exchange a tensor of that many bytes with full precision.
struct AlgorithmRequest {
    uint16_t group;
    uint64_t bytes;
};
enum class Algorithm : uint8_t { direct = 0, doubling = 1, scatter = 2 };  // docs/protocol.md has their steps
inline constexpr size_t n_algorithms = 3;
inline constexpr uint8_t no_algorithm = 255;  // not chosen yet: before the group's first REDUCE
struct AlgorithmReply {
    uint8_t algorithm;  // an Algorithm, or no_algorithm
    uint8_t sharing;    // the number of ranks that this one reaches through shared memory
    uint8_t unused[14];
};
// Server to server, on a link of a group. The data follows, also if it is not valid.
struct ReduceHeader {
    uint64_t number;   // counts the messages on this link in this direction, from 0; UINT64_MAX: the sender has left the group
    uint64_t size;     // of the data, bytes
    uint8_t is_valid;  // 0: the launch that computes it failed
};

// One tensor of a graph. view_src and src refer to tensors of the same graph by position plus 1; 0 = none.
struct GraphTensor {
    uint32_t type;
    uint32_t op;
    int32_t flags;
    int32_t use_count;
    uint32_t is_node;  // 1: computed, in the order of the tensors; 0: only read or viewed
    uint32_t view_src;
    uint32_t src[max_sources];
    uint64_t view_offs;
    uint64_t ne[max_dims];
    uint64_t nb[max_dims];
    uint64_t address;
    std::byte op_params[op_params_size];
    char name[max_name];
};

#pragma pack(pop)

static_assert(sizeof(RegionRecord) == 76 && sizeof(WriteRequest) == 11 && sizeof(GraphRequest) == 12);
static_assert(sizeof(GraphTensor) == 272 && sizeof(GraphTensor) % sizeof(uint64_t) == 0);

// Appends to `out` the difference of `tensors` to `base`. For each tensor that differs from the one at the same position
// in `base`: u32 number of equal tensors before it, u64 mask of its 8-byte words that differ, these words. Tensors beyond
// the end of `base` are always given, as a difference to zeros.
void encode_difference(std::span<const GraphTensor> base, std::span<const GraphTensor> tensors,
                       std::vector<std::byte> & out);
// The inverse. Errc::protocol for malformed input. Memory use is bounded by the sizes of `base` and `difference`.
Result<std::vector<GraphTensor>> decode_difference(std::span<const GraphTensor> base, uint32_t n_tensors,
                                                   ConstBytes difference);

// As for stock commands.
const char * command_name(NativeCommand command);
// The name of Span::what: a command, or "COMPUTE".
const char * span_name(uint8_t what);
PayloadBounds payload_bounds(NativeCommand command);
const char * text_of(Algorithm algorithm);

}  // namespace caravan::wire
