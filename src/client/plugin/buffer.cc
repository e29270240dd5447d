// Buffer types and buffers: memory on a server's device.

#include <algorithm>

#include "base/log.h"
#include "client/plugin/device.h"

namespace caravan::client {
namespace {

Device & owner(ggml_backend_buffer_type_t type) { return *static_cast<Device *>(caravan::abi::context_of(type)); }
BufferContext & self(ggml_backend_buffer_t buffer) { return *static_cast<BufferContext *>(buffer->context); }

void free_buffer(ggml_backend_buffer_t buffer) {
    self(buffer).connection->buffers().free(self(buffer).remote);
    delete &self(buffer);
}

// The buffer's base in the server's address space; never dereferenced.
void * get_base(ggml_backend_buffer_t buffer) { return reinterpret_cast<void *>(self(buffer).remote.base); }

wire::Region region(ggml_backend_buffer_t buffer, const ggml_tensor * tensor) {
    return encode_region(*tensor, self(buffer).remote.handle);
}

ggml_status init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    if (is_padded(*tensor)) {
        self(buffer).connection->data().init_tensor(region(buffer, tensor));
    }
    return GGML_STATUS_SUCCESS;
}

void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    self(buffer).connection->data().memset(region(buffer, tensor), range_of(*tensor, offset, size), offset, size, value);
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    self(buffer).connection->data().set(region(buffer, tensor), range_of(*tensor, offset, size), offset,
                                        const_bytes(data, size), buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
}

void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    Connection & connection = *self(buffer).connection;
    // ggml copies between devices with this, and kernels do not check row indices, so absent integers are 0, which is in
    // range. Results are NaN all the same, because the server's other data is absent too.
    const auto absent = is_integer(tensor->type) ? Stream::Absent::zeroes : Stream::Absent::nan;
    connection.await(connection.data().get(region(buffer, tensor), range_of(*tensor, offset, size), offset,
                                           mutable_bytes(data, size), absent));
}

void set_tensor_2d(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size,
                   size_t n_copies, size_t stride_tensor, size_t stride_data) {
    if (n_copies == 0) {
        return;
    }
    self(buffer).connection->data().set_2d(region(buffer, tensor),
                                           range_of(*tensor, offset, (n_copies - 1) * stride_tensor + size), offset, size,
                                           n_copies, stride_tensor, static_cast<const std::byte *>(data), stride_data,
                                           buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
}

void get_tensor_2d(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size,
                   size_t n_copies, size_t stride_tensor, size_t stride_data) {
    if (n_copies == 0) {
        return;
    }
    Connection & connection = *self(buffer).connection;
    std::vector<std::byte> packed(size * n_copies);
    connection.await(connection.data().get_2d(region(buffer, tensor),
                                              range_of(*tensor, offset, (n_copies - 1) * stride_tensor + size), offset, size,
                                              n_copies, stride_tensor, packed));
    for (size_t i = 0; i < n_copies; ++i) {
        std::copy_n(packed.data() + i * size, size, static_cast<std::byte *>(data) + i * stride_data);
    }
}

bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * src, ggml_tensor * dst) {
    BufferContext * from = context_of(*src);
    if (from == nullptr || from->connection != self(buffer).connection) {
        return false;
    }
    return self(buffer).connection->data().copy(encode_region(*src, from->remote.handle), range_of(*src),
                                                region(buffer, dst), range_of(*dst));
}

constexpr ggml_backend_buffer_calls buffer_calls{
    .free_buffer = free_buffer,
    .get_base = get_base,
    .init_tensor = init_tensor,
    .memset_tensor = memset_tensor,
    .set_tensor = set_tensor,
    .get_tensor = get_tensor,
    .set_tensor_2d = set_tensor_2d,
    .get_tensor_2d = get_tensor_2d,
    .cpy_tensor = cpy_tensor,
    .clear = [](ggml_backend_buffer_t buffer,
                uint8_t value) { self(buffer).connection->buffers().clear(self(buffer).remote, value); },
    .reset = nullptr,
};

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    Device & device = owner(type);
    auto connection = device.server().session(size > 0 ? RemoteServer::Use::memory : RemoteServer::Use::backend);
    const uint64_t alignment = device.server().alignment(device.index());
    auto remote = connection ? (*connection)->buffers().alloc(device.index(), size, alignment)
                             : std::unexpected(connection.error());
    if (!remote) {
        log_error("{}: {}", device.name(), remote.error().text);
        return nullptr;
    }
    return ggml_backend_buffer_init(type, buffer_calls, new BufferContext{*connection, *remote}, remote->size);
}

const char * type_name(ggml_backend_buffer_type_t type) { return owner(type).buffer_type_name().c_str(); }

constexpr ggml_backend_buffer_type_calls type_calls{
    .get_name = type_name,
    .alloc_buffer = alloc_buffer,
    .alloc_buffer_n = nullptr,
    .get_alignment = [](ggml_backend_buffer_type_t type) -> size_t {
        return owner(type).server().alignment(owner(type).index());
    },
    .get_max_size = [](ggml_backend_buffer_type_t type) -> size_t {
        return owner(type).server().max_size(owner(type).index());
    },
    .get_alloc_size = [](ggml_backend_buffer_type_t type, const ggml_tensor * tensor) -> size_t {
        return owner(type).server().alloc_size(owner(type).index(), *tensor);
    },
    .get_alloc_size_n = nullptr,
    .is_host = nullptr,
};

}  // namespace

ggml_backend_buffer_type make_buffer_type(Device & device, ggml_backend_dev_t ggml_device) {
    return {.calls = type_calls, .device = ggml_device, .context = &device};
}

Device * device_of(ggml_backend_buffer_type_t type) {
    return type != nullptr && type->calls.get_name == type_name ? &owner(type) : nullptr;
}

BufferContext * context_of(ggml_backend_buffer_t buffer) {
    return buffer != nullptr && buffer->calls.free_buffer == free_buffer ? &self(buffer) : nullptr;
}

BufferContext * context_of(const ggml_tensor & tensor) { return context_of(buffer_of(tensor)); }

}  // namespace caravan::client
