// Converts a tensor from the wire to one that ggml may use. All input is untrusted: types, shapes and strides are checked in
// 64-bit arithmetic, and the bytes that they span against the buffer. Failures are Errc::invalid_argument or, for an unknown
// buffer, Errc::not_found.
#pragma once

#include "ggml.h"
#include "server/graph/buffer_table.h"
#include "wire/native.h"

namespace caravan::server {

// The number of bytes from the first element to the end of the last. Fails if type, shape or strides are invalid.
Result<uint64_t> checked_bytes(const wire::Region & region);

// A tensor with checked type, shape and strides and, if it names a buffer, with data and buffer set and all bytes inside that
// buffer. Op and sources are not set. An empty tensor may have any address; its data is clamped to the buffer.
Result<ggml_tensor> checked_tensor(const wire::Region & region, BufferTable & buffers);

// A checked tensor that names a buffer, and the bytes [offset, offset + size) inside it. Zero bytes may have any offset.
struct CheckedRegion {
    ggml_tensor tensor;
    BufferTable::Region region;  // starts at `offset` in the tensor
    uint64_t offset = 0;
    uint64_t tensor_bytes = 0;
    uint64_t address = 0;  // of the tensor, as the client uses it
    uint32_t device() const { return region.buffer->device; }
};
Result<CheckedRegion> checked_region(const wire::Region & region, uint64_t offset, uint64_t size,
                                     BufferTable & buffers);

// The region that a RegionRecord or GraphTensor describes.
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

// The tensor's name for messages. Unprintable characters are replaced.
std::string printable_name(const wire::GraphTensor & tensor);

}  // namespace caravan::server
