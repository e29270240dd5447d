#include "server/tensor_check.h"

#include <cstring>

namespace caravan::server {

std::string printable_name(const wire::Tensor & tensor) {
    std::string name(tensor.name, strnlen(tensor.name, sizeof tensor.name));
    for (char & c : name) {
        if (c < ' ' || c > '~') {
            c = '?';
        }
    }
    return name;
}

Result<uint64_t> checked_bytes(const wire::Tensor & tensor) {
    if (tensor.type >= GGML_TYPE_COUNT) {
        return fail(Errc::invalid_argument, "tensor type {} does not exist", static_cast<uint32_t>(tensor.type));
    }
    const auto type = static_cast<ggml_type>(tensor.type);
    const int64_t block = ggml_blck_size(type);
    const uint64_t block_bytes = ggml_type_size(type);
    if (block <= 0 || block_bytes == 0) {
        return fail(Errc::invalid_argument, "tensor type {} is no longer supported", static_cast<uint32_t>(tensor.type));
    }
    if (tensor.ne[0] % block != 0) {
        return fail(Errc::invalid_argument, "a row of {} elements is not a whole number of {} blocks of {}",
                    static_cast<uint32_t>(tensor.ne[0]), ggml_type_name(type), block);
    }
    uint64_t elements = 1;
    for (int i = 0; i < wire::max_dims; ++i) {
        if (__builtin_mul_overflow(elements, uint64_t{tensor.ne[i]}, &elements) || elements > INT64_MAX / 256) {
            return fail(Errc::invalid_argument, "tensor with too many elements");
        }
    }
    if (elements == 0) {
        return 0;
    }
    // The last element of each dimension, then the size of what begins there: ne and nb are below 2^32, so no product
    // overflows, and neither does the sum.
    uint64_t bytes = 0;
    if (block == 1) {
        bytes = block_bytes + (tensor.ne[0] - 1) * uint64_t{tensor.nb[0]};
    } else {
        bytes = tensor.ne[0] / static_cast<uint64_t>(block) * uint64_t{tensor.nb[0]};
    }
    for (int i = 1; i < wire::max_dims; ++i) {
        if (__builtin_add_overflow(bytes, (tensor.ne[i] - uint64_t{1}) * tensor.nb[i], &bytes)) {
            return fail(Errc::invalid_argument, "tensor with too many bytes");
        }
    }
    if (tensor.nb[0] < block_bytes && (block != 1 || tensor.ne[0] > 1)) {
        return fail(Errc::invalid_argument, "elements of {} that overlap", ggml_type_name(type));
    }
    if (bytes > max_buffer_size) {
        return fail(Errc::invalid_argument, "tensor with too many bytes");
    }
    return bytes;
}

Result<ggml_tensor> checked_tensor(const wire::Tensor & tensor, BufferTable & buffers) {
    const auto bytes = checked_bytes(tensor);
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    ggml_tensor out{};
    out.type = static_cast<ggml_type>(tensor.type);
    for (int i = 0; i < wire::max_dims; ++i) {
        out.ne[i] = tensor.ne[i];
        out.nb[i] = tensor.nb[i];
    }
    if (tensor.buffer != 0) {
        const auto region = buffers.locate(tensor.buffer, tensor.data, *bytes);
        if (!region) {
            return std::unexpected(region.error());
        }
        out.buffer = region->buffer->buffer.get();
        out.data = region->data();
    } else if (tensor.data != 0) {
        return fail(Errc::invalid_argument, "a tensor with an address but no buffer");
    }
    return out;
}

Result<CheckedRegion> checked_region(const wire::Tensor & tensor, uint64_t offset, uint64_t size,
                                     BufferTable & buffers) {
    const auto bytes = checked_bytes(tensor);
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    if (offset > *bytes || size > *bytes - offset) {
        return fail(Errc::invalid_argument, "{} bytes at offset {} do not lie in a tensor of {} bytes", size, offset,
                    *bytes);
    }
    const auto checked = checked_tensor(tensor, buffers);
    if (!checked) {
        return std::unexpected(checked.error());
    }
    if (tensor.buffer == 0) {
        return fail(Errc::invalid_argument, "a tensor without a buffer");
    }
    auto region = buffers.locate(tensor.buffer, tensor.data, *bytes);
    region->offset += offset;
    return CheckedRegion{*checked, *region, *bytes};
}

}  // namespace caravan::server
