#include "wire/stock.h"

#include <cstdint>

namespace caravan::wire {
namespace {

// A graph of 100,000 tensors takes 30 MB. The receiver allocates memory only as the payload arrives.
constexpr uint64_t max_graph_payload = 64 << 20;

constexpr PayloadBounds exactly(uint64_t size) { return {size, size}; }

}  // namespace

uint64_t fnv1a(ConstBytes data, uint64_t state) {
    for (const std::byte b : data) {
        state = (state ^ static_cast<uint64_t>(b)) * 0x100000001b3;
    }
    return state;
}

PayloadBounds payload_bounds(Command command) {
    switch (command) {
        case Command::alloc_buffer: return exactly(sizeof(AllocBufferRequest));
        case Command::get_alignment:
        case Command::get_max_size:
        case Command::get_device_memory: return exactly(sizeof(DeviceRequest));
        case Command::buffer_get_base:
        case Command::free_buffer: return exactly(sizeof(BufferRequest));
        case Command::buffer_clear: return exactly(sizeof(BufferClearRequest));
        case Command::set_tensor: return {sizeof(SetTensorRequest), any_size};
        case Command::set_tensor_hash: return exactly(sizeof(SetTensorHashRequest));
        case Command::get_tensor: return exactly(sizeof(GetTensorRequest));
        case Command::copy_tensor: return exactly(sizeof(CopyTensorRequest));
        case Command::graph_compute: return {sizeof(GraphComputeRequest) + sizeof(uint32_t), max_graph_payload};
        case Command::init_tensor: return exactly(sizeof(Tensor));
        case Command::get_alloc_size: return exactly(sizeof(GetAllocSizeRequest));
        case Command::hello: return exactly(sizeof(HelloRequest));
        case Command::device_count: return exactly(0);
        case Command::graph_recompute: return exactly(sizeof(GraphRecomputeRequest));
        case Command::memset_tensor: return exactly(sizeof(MemsetTensorRequest));
        case Command::set_tensor_2d: return {sizeof(Tensor2dRequest), any_size};
        case Command::get_tensor_2d: return exactly(sizeof(Tensor2dRequest));
        case Command::comm_init: return exactly(80);
        case Command::comm_allreduce: return exactly(4 + sizeof(Tensor));
        case Command::comm_free: return exactly(4);
    }
    return {1, 0};
}

const char * command_name(Command command) {
    switch (command) {
        case Command::alloc_buffer: return "ALLOC_BUFFER";
        case Command::get_alignment: return "GET_ALIGNMENT";
        case Command::get_max_size: return "GET_MAX_SIZE";
        case Command::buffer_get_base: return "BUFFER_GET_BASE";
        case Command::free_buffer: return "FREE_BUFFER";
        case Command::buffer_clear: return "BUFFER_CLEAR";
        case Command::set_tensor: return "SET_TENSOR";
        case Command::set_tensor_hash: return "SET_TENSOR_HASH";
        case Command::get_tensor: return "GET_TENSOR";
        case Command::copy_tensor: return "COPY_TENSOR";
        case Command::graph_compute: return "GRAPH_COMPUTE";
        case Command::get_device_memory: return "GET_DEVICE_MEMORY";
        case Command::init_tensor: return "INIT_TENSOR";
        case Command::get_alloc_size: return "GET_ALLOC_SIZE";
        case Command::hello: return "HELLO";
        case Command::device_count: return "DEVICE_COUNT";
        case Command::graph_recompute: return "GRAPH_RECOMPUTE";
        case Command::memset_tensor: return "MEMSET_TENSOR";
        case Command::set_tensor_2d: return "SET_TENSOR_2D";
        case Command::get_tensor_2d: return "GET_TENSOR_2D";
        case Command::comm_init: return "COMM_INIT";
        case Command::comm_allreduce: return "COMM_ALLREDUCE";
        case Command::comm_free: return "COMM_FREE";
    }
    return "unknown command";
}

}  // namespace caravan::wire
