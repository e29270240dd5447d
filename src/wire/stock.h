// The stock dialect: ggml's RPC protocol 8.0, as in ggml 0.27. Layouts only: no I/O, no ggml calls.
//
// A request is u8 command, u64 payload size, payload. A reply, for commands that have one, is u64 size, payload. Replies
// come in the order of the requests; there are no request numbers. All fields are little-endian and packed.
// docs/protocol.md has the complete table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace caravan::wire {

inline constexpr uint8_t stock_major = 8;
inline constexpr uint8_t stock_minor = 0;
inline constexpr uint8_t stock_patch = 0;

// A client sends SET_TENSOR_HASH before it uploads weights of more than this many bytes.
inline constexpr size_t hash_threshold = 10 * 1024 * 1024;

// Both sides keep this many graphs for each device. The next new graph evicts all of them.
inline constexpr size_t max_kept_graphs = 1024;

enum class Command : uint8_t {
    alloc_buffer = 0,
    get_alignment = 1,
    get_max_size = 2,
    buffer_get_base = 3,
    free_buffer = 4,
    buffer_clear = 5,
    set_tensor = 6,
    set_tensor_hash = 7,
    get_tensor = 8,
    copy_tensor = 9,
    graph_compute = 10,
    get_device_memory = 11,
    init_tensor = 12,
    get_alloc_size = 13,
    hello = 14,
    device_count = 15,
    graph_recompute = 16,
    memset_tensor = 17,
    set_tensor_2d = 18,
    get_tensor_2d = 19,
    comm_init = 20,
    comm_allreduce = 21,
    comm_free = 22,
};

inline constexpr int max_dims = 4;
inline constexpr int max_sources = 10;
inline constexpr size_t max_name = 64;
inline constexpr size_t op_params_size = 64;

#pragma pack(push, 1)

struct RequestHeader {
    Command command;
    uint64_t size;  // bytes of payload that follow
};

struct Tensor {
    uint64_t id;  // unique within the request, not 0; stock clients send the address of their ggml_tensor
    uint32_t type;
    uint64_t buffer;        // handle from ALLOC_BUFFER, 0 = none
    uint32_t ne[max_dims];  // elements
    uint32_t nb[max_dims];  // strides, bytes
    uint32_t op;
    std::byte op_params[op_params_size];
    int32_t flags;
    uint64_t src[max_sources];  // ids, 0 = none
    uint64_t view_src;          // id, 0 = none
    uint64_t view_offs;         // bytes
    uint64_t data;              // address, from BUFFER_GET_BASE to that plus the buffer's size; 0 = none
    char name[max_name];
    int32_t use_count;  // filled in GRAPH_COMPUTE only
};

struct HelloRequest {
    std::byte capabilities[24];
};

struct HelloReply {
    uint8_t major, minor, patch, padding;
    std::byte capabilities[24];
};

struct DeviceRequest {  // GET_ALIGNMENT, GET_MAX_SIZE, GET_DEVICE_MEMORY
    uint32_t device;
};

struct AllocBufferRequest {
    uint32_t device;
    uint64_t size;
};

struct AllocBufferReply {
    uint64_t buffer;  // 0 = failed
    uint64_t size;
};

struct BufferRequest {  // BUFFER_GET_BASE, FREE_BUFFER
    uint64_t buffer;
};

struct BufferClearRequest {
    uint64_t buffer;
    uint8_t value;
};

struct SetTensorRequest {  // the data follows
    Tensor tensor;
    uint8_t cache;  // 1: a weight that the server should cache
    uint64_t offset;
};

struct SetTensorHashRequest {
    Tensor tensor;
    uint64_t offset;
    uint64_t hash;  // FNV-1a 64 of the data
};

struct GetTensorRequest {
    Tensor tensor;
    uint64_t offset;
    uint64_t size;
};

struct CopyTensorRequest {
    Tensor src;
    Tensor dst;
};

struct GraphComputeRequest {  // then u64 ids[n_nodes], u32 n_tensors, Tensor tensors[n_tensors]
    uint32_t device;
    uint64_t uid;
    uint32_t n_nodes;
};

struct GraphRecomputeRequest {
    uint32_t device;
    uint64_t uid;
};

struct DeviceMemoryReply {
    uint64_t free;
    uint64_t total;
};

struct GetAllocSizeRequest {
    uint32_t device;
    Tensor tensor;
    Tensor src[max_sources];
};

struct MemsetTensorRequest {
    Tensor tensor;
    uint64_t offset;
    uint64_t size;
    uint8_t value;
};

struct Tensor2dRequest {  // SET_TENSOR_2D (n_copies rows of `size` bytes follow, packed), GET_TENSOR_2D
    Tensor tensor;
    uint64_t offset;
    uint64_t size;
    uint64_t n_copies;
    uint64_t stride;  // from row to row in the tensor, bytes
};

#pragma pack(pop)

static_assert(sizeof(RequestHeader) == 9);
static_assert(sizeof(Tensor) == 296 && offsetof(Tensor, type) == 8 && offsetof(Tensor, buffer) == 12 &&
              offsetof(Tensor, ne) == 20 && offsetof(Tensor, nb) == 36 && offsetof(Tensor, op) == 52 &&
              offsetof(Tensor, op_params) == 56 && offsetof(Tensor, flags) == 120 && offsetof(Tensor, src) == 124 &&
              offsetof(Tensor, view_src) == 204 && offsetof(Tensor, view_offs) == 212 &&
              offsetof(Tensor, data) == 220 && offsetof(Tensor, name) == 228 && offsetof(Tensor, use_count) == 292);
static_assert(sizeof(HelloRequest) == 24 && sizeof(HelloReply) == 28);
static_assert(sizeof(AllocBufferRequest) == 12 && sizeof(AllocBufferReply) == 16);
static_assert(sizeof(SetTensorRequest) == 305 && sizeof(SetTensorHashRequest) == 312);
static_assert(sizeof(GetTensorRequest) == 312 && sizeof(CopyTensorRequest) == 592);
static_assert(sizeof(GraphComputeRequest) == 16 && sizeof(GraphRecomputeRequest) == 12);
static_assert(sizeof(GetAllocSizeRequest) == 3260 && sizeof(MemsetTensorRequest) == 313);
static_assert(sizeof(Tensor2dRequest) == 328);

// FNV-1a, 64 bits: the hash of SET_TENSOR_HASH. Pass the result for one piece as `state` for the next.
inline constexpr uint64_t fnv1a_start = 0xcbf29ce484222325;
uint64_t fnv1a(ConstBytes data, uint64_t state = fnv1a_start);

// The payload sizes that a request may have: low to high, inclusive. low > high for an unknown command.
struct PayloadBounds {
    uint64_t low;
    uint64_t high;
};
constexpr uint64_t any_size = UINT64_MAX;  // as `high`
PayloadBounds payload_bounds(Command command);

// For log lines and errors: "GET_TENSOR", or "unknown command".
const char * command_name(Command command);

}  // namespace caravan::wire
