// The native dialect: what two Caravan peers say to each other beyond the stock one, in the same framing (u8 command,
// u64 size, payload), mixed freely with it. Layouts and the coding of graphs by difference: no I/O, no ggml calls.
// docs/protocol.md has the whole table.
//
// Compact, because each token repeats the same few commands: a tensor is declared once, under a slot of the client's
// choice, and then named by it; a graph likewise. Both sides keep what the client last put into a slot, so there is
// nothing to agree on but the number of slots.
//
// Answers have the stock frame (u64 size, payload), with a kind in the size's topmost byte.
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
inline constexpr uint16_t max_graph_slots = 128;  // of each session, for all its devices
inline constexpr uint32_t max_graph_tensors = 1 << 18;    // of one graph
inline constexpr uint32_t max_session_tensors = 1 << 20;  // of all graphs in the slots
inline constexpr size_t max_error_text = 1000;
// Weights longer than this are looked for before they are sent: less than in the stock dialect, for a question costs
// less than the bytes.
inline constexpr size_t find_threshold = 1024 * 1024;

enum class AnswerKind : uint8_t {
    good = 0,           // the payload is the answer
    ended = 1,          // the session ends; the payload says why. May come instead of any answer
    launch_failed = 2,  // a GRAPH or LAUNCH failed; the payload says why. Not an answer, the session goes on
    refused = 3,        // the payload says why there is no answer; the session goes on
};
inline constexpr int answer_kind_shift = 56;
inline constexpr uint64_t answer_size_mask = (uint64_t{1} << answer_kind_shift) - 1;

enum class NativeCommand : uint8_t {
    declare = 64,      // slot, region: the slot means this region from now on. No answer
    write = 65,        // slot, keep, offset, data. No answer
    read = 66,         // slot, offset, size. Answer: the bytes
    fill = 67,         // slot, offset, size, value. No answer
    copy = 68,         // from slot, to slot: all bytes. No answer
    graph = 69,        // device, slot, base slot, n, difference: keep it in the slot and launch it
    launch = 70,       // slot. No answer; see launch_failed
    supports = 71,     // device, n, difference to nothing. Answer: u8 for each node: 1 = it does
    find = 72,         // slot, offset, size, BLAKE3. Answer: u8 1 = it was here, and is in place now
    invite = 73,       // Answer: u64 token with which another server may connect to this session
    connect = 74,      // link, token, endpoint: connect to that session. Answer: text, or refused
    push = 75,         // link, slot: send all bytes to the link's other end. No answer
    take = 76,         // token, slot: receive all bytes from the server that was given the token
    initialize = 77,   // slot: like INIT_TENSOR. No answer
    facts = 78,        // Answer: SessionFacts
    clock = 79,        // Answer: u64 ns of the server's steady clock. From then on it records what it does
    spans = 80,        // Answer: SpansAnswer with what was recorded, which is then forgotten
};
constexpr bool is_native(Command command) {
    return static_cast<uint8_t>(command) >= static_cast<uint8_t>(NativeCommand::declare) &&
           static_cast<uint8_t>(command) <= static_cast<uint8_t>(NativeCommand::spans);
}

// A tensor's place and shape, whichever dialect told it.
struct Region {
    uint32_t type = 0;
    uint64_t ne[max_dims] = {};  // elements
    uint64_t nb[max_dims] = {};  // strides, bytes
    uint64_t buffer = 0;         // handle, 0 = none
    uint64_t address = 0;        // in the buffer, 0 = none

    Region() = default;
    Region(const Tensor & tensor);  // stock's form of the same
    bool operator==(const Region &) const = default;
};

#pragma pack(push, 1)

// Buffers are not named: a Caravan server's addresses tell them.
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
    uint8_t keep;  // 1: a weight that is worth keeping
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
    uint8_t has_cache;  // FIND may find something
    uint8_t unused[31];
};

// One command, from its header's arrival to its end; or what a device computed while commands went on. Steady clock of
// the server, ns.
struct Span {
    uint64_t begin, end;
    uint8_t what;  // a command, or computing(device)
};
inline constexpr uint8_t first_computing = 192;
constexpr uint8_t computing(uint32_t device) {
    return static_cast<uint8_t>(std::min<uint32_t>(first_computing + device, UINT8_MAX));
}
inline constexpr size_t spans_per_answer = 4096;
inline constexpr size_t max_recorded_spans = 1 << 18;  // a server forgets the oldest ones beyond that
struct SpansAnswer {
    uint32_t count;  // of the spans below that are used; fewer than there is room for: there are no more
    Span spans[spans_per_answer];
};

// Between servers, on a link: the data follow.
struct PushHeader {
    uint64_t number;  // of pushes on this link, from 0
    uint64_t size;    // or push_absent
};
// No data follow: the launch that should have computed them failed.
inline constexpr uint64_t push_absent = UINT64_MAX;

// One tensor of a graph. Others of the same graph are named by their position in it plus 1, 0 = none.
struct GraphTensor {
    uint32_t type;
    uint32_t op;
    int32_t flags;
    int32_t use_count;
    uint32_t is_node;  // 1: computed, in the order of the tensors; 0: only read, or viewed
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

// The difference of a list of tensors to a base: for each tensor that is not equal to the base's at the same position,
// u32 how many equal ones come before it, u64 a bit for each word of 8 bytes that differs, these words. Tensors beyond
// the base's end differ from zeroes, and are always given.
void encode_difference(std::span<const GraphTensor> base, std::span<const GraphTensor> tensors,
                       std::vector<std::byte> & out);
// Errc::protocol if it is none. Takes memory for no more tensors than `base` has and `difference` gives.
Result<std::vector<GraphTensor>> decode_difference(std::span<const GraphTensor> base, uint32_t n_tensors,
                                                   ConstBytes difference);

const char * command_name(NativeCommand command);
// Of a Span's `what`: "COMPUTE" for a device's.
const char * span_name(uint8_t what);
PayloadBounds payload_bounds(NativeCommand command);

}  // namespace caravan::wire
