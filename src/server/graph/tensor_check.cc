#include "server/graph/tensor_check.h"

#include <algorithm>
#include <cstring>

namespace caravan::server {

std::string printable_name(const wire::GraphTensor & tensor) {
    std::string name(tensor.name, strnlen(tensor.name, sizeof tensor.name));
    for (char & c : name) {
        if (c < ' ' || c > '~') {
            c = '?';
        }
    }
    return name;
}

Result<uint64_t> checked_bytes(const wire::Region & region) {
    if (region.type >= GGML_TYPE_COUNT) {
        return fail(Errc::invalid_argument, "tensor type {} does not exist", region.type);
    }
    const auto type = static_cast<ggml_type>(region.type);
    const int64_t block = ggml_blck_size(type);
    const uint64_t block_bytes = ggml_type_size(type);
    if (block <= 0 || block_bytes == 0) {
        return fail(Errc::invalid_argument, "tensor type {} is no longer supported", region.type);
    }
    if (region.ne[0] % static_cast<uint64_t>(block) != 0) {
        return fail(Errc::invalid_argument, "a row of {} elements is not a multiple of the {} block size {}",
                    region.ne[0], ggml_type_name(type), block);
    }
    uint64_t elements = 1;
    for (const uint64_t ne : region.ne) {
        if (ne > INT64_MAX / 256 || __builtin_mul_overflow(elements, ne, &elements) || elements > INT64_MAX / 256) {
            return fail(Errc::invalid_argument, "the tensor has too many elements");
        }
    }
    if (elements == 0) {
        return 0;
    }
    // The offset of the last element (or block) along each dimension, plus its size.
    uint64_t bytes = block == 1 ? block_bytes : 0;
    for (int i = 0; i < wire::max_dims; ++i) {
        const uint64_t steps = i == 0 && block != 1 ? region.ne[0] / static_cast<uint64_t>(block) : region.ne[i] - 1;
        uint64_t length = 0;
        if (__builtin_mul_overflow(steps, region.nb[i], &length) || __builtin_add_overflow(bytes, length, &bytes)) {
            return fail(Errc::invalid_argument, "the tensor has too many bytes");
        }
    }
    if (region.nb[0] < block_bytes && (block != 1 || region.ne[0] > 1)) {
        return fail(Errc::invalid_argument, "the strides make elements of {} overlap", ggml_type_name(type));
    }
    if (bytes > max_buffer_size) {
        return fail(Errc::invalid_argument, "the tensor has too many bytes");
    }
    return bytes;
}

Result<ggml_tensor> checked_tensor(const wire::Region & region, BufferTable & buffers) {
    const auto bytes = checked_bytes(region);
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    ggml_tensor out{};
    out.type = static_cast<ggml_type>(region.type);
    for (int i = 0; i < wire::max_dims; ++i) {
        out.ne[i] = static_cast<int64_t>(region.ne[i]);
        out.nb[i] = region.nb[i];
    }
    if (*bytes == 0) {
        // Kernels assert that the strides of an empty source match its shape. The strides from the wire are not checked,
        // because they address nothing.
        out.nb[0] = ggml_type_size(out.type);
        out.nb[1] = ggml_row_size(out.type, out.ne[0]);
        for (int i = 2; i < GGML_MAX_DIMS; ++i) {
            out.nb[i] = out.nb[i - 1] * static_cast<size_t>(out.ne[i - 1]);
        }
    }
    if (region.buffer != 0) {
        const auto place = buffers.locate(region.buffer, region.address, *bytes);
        if (!place) {
            return std::unexpected(place.error());
        }
        out.buffer = place->buffer->buffer.get();
        out.data = place->data();
    } else if (region.address != 0 && *bytes != 0) {
        return fail(Errc::invalid_argument, "the tensor has an address but no buffer");
    }
    return out;
}

Result<CheckedRegion> checked_region(const wire::Region & region, uint64_t offset, uint64_t size,
                                     BufferTable & buffers) {
    const auto bytes = checked_bytes(region);
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    if (size != 0 && (offset > *bytes || size > *bytes - offset)) {
        return fail(Errc::invalid_argument, "{} bytes at offset {} lie outside a tensor of {} bytes", size, offset,
                    *bytes);
    }
    const auto checked = checked_tensor(region, buffers);
    if (!checked) {
        return std::unexpected(checked.error());
    }
    if (region.buffer == 0) {
        return fail(Errc::invalid_argument, "the tensor has no buffer");
    }
    auto place = buffers.locate(region.buffer, region.address, *bytes);
    offset = std::min(offset, *bytes);
    place->offset += offset;
    return CheckedRegion{*checked, *place, offset, *bytes, region.address};
}

}  // namespace caravan::server
