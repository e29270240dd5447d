// Turning a tensor from the wire into one that ggml may touch. Everything in it is hostile until checked here: types,
// shapes and strides in 64-bit arithmetic, and the bytes that they span against the buffer.
#pragma once

#include "ggml.h"
#include "server/buffer_table.h"
#include "wire/native.h"

namespace caravan::server {

// The number of bytes from the first to behind the last element, or an error if type, shape or strides make no sense.
Result<uint64_t> checked_bytes(const wire::Region & region);

// Type, shape, strides, and if it names a buffer: data and buffer, with all its bytes inside. No op, no sources. A
// tensor without elements may have any address, and its data lies inside its buffer nevertheless.
Result<ggml_tensor> checked_tensor(const wire::Region & region, BufferTable & buffers);

// checked_tensor, which must name a buffer, and [offset, offset + size) inside the tensor. Zero bytes may have any offset.
struct CheckedRegion {
    ggml_tensor tensor;
    BufferTable::Region region;  // from `offset` on
    uint64_t offset = 0;
    uint64_t tensor_bytes = 0;
    uint64_t address = 0;  // of the tensor, as the client knows it
    uint32_t device() const { return region.buffer->device; }
};
Result<CheckedRegion> checked_region(const wire::Region & region, uint64_t offset, uint64_t size,
                                     BufferTable & buffers);

// The region that a RegionRecord or GraphTensor describes. (Fields of packed structs cannot be referred to.)
template <class Wired>
wire::Region region_of(const Wired & wired) {
    wire::Region out;
    out.type = wired.type;
    for (int i = 0; i < wire::max_dims; ++i) {
        out.ne[i] = wired.ne[i];
        out.nb[i] = wired.nb[i];
    }
    out.address = wired.address;
    out.buffer = buffer_of(out.address);
    return out;
}

// For messages: the name, with what is not printable replaced.
std::string printable_name(const wire::GraphTensor & tensor);

}  // namespace caravan::server
