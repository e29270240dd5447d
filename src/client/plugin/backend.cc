// Back-ends and events. A server executes the commands of a session in order, so a write cannot overtake a launch, and an
// event waits only for replies that the program can observe.

#include <algorithm>
#include <memory>

#include "base/log.h"
#include "client/plugin/device.h"
#include "client/session/group_use.h"

namespace caravan::client {
namespace {

struct BackendContext {
    Device & device;
    std::shared_ptr<Connection> connection;
    std::shared_ptr<GroupUse> group_use;  // null: no member of a group
};

struct EventContext {
    std::shared_ptr<Connection> connection;  // null until recorded
    Stream::Ticket ticket;
};

ggml_guid guid = {0x63, 0x61, 0x72, 0x61, 0x76, 0x61, 0x6e, 0x2d, 0x72, 0x70, 0x63, 0x2d, 0x30, 0x30, 0x30, 0x31};

BackendContext & self(ggml_backend_t backend) { return *static_cast<BackendContext *>(backend->context); }
EventContext & self(ggml_backend_event_t event) { return *static_cast<EventContext *>(event->context); }

void free_backend(ggml_backend_t backend) {
    delete &self(backend);
    delete backend;
}

void set_tensor_async(ggml_backend_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    // This copies or sends the data before it returns; ggml does not require that.
    const ggml_backend_buffer_t buffer = buffer_of(*tensor);
    buffer->calls.set_tensor(buffer, tensor, data, offset, size);
}

void get_tensor_async(ggml_backend_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    if (const BufferContext * from = context_of(*tensor)) {
        from->connection->data().get(encode_region(*tensor, from->remote.handle), range_of(*tensor, offset, size), offset,
                                     mutable_bytes(data, size));
    }
}

void set_tensor_2d_async(ggml_backend_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size,
                         size_t n_copies, size_t stride_tensor, size_t stride_data) {
    const ggml_backend_buffer_t buffer = buffer_of(*tensor);
    buffer->calls.set_tensor_2d(buffer, tensor, data, offset, size, n_copies, stride_tensor, stride_data);
}

void get_tensor_2d_async(ggml_backend_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size,
                         size_t n_copies, size_t stride_tensor, size_t stride_data) {
    const ggml_backend_buffer_t buffer = buffer_of(*tensor);
    buffer->calls.get_tensor_2d(buffer, tensor, data, offset, size, n_copies, stride_tensor, stride_data);
}

bool cpy_tensor_async(ggml_backend_t from, ggml_backend_t to, const ggml_tensor * src, ggml_tensor * dst) {
    BufferContext * target = context_of(*dst);
    if (target == nullptr || !ggml_is_contiguous(src) || !ggml_is_contiguous(dst) ||
        ggml_nbytes(src) != ggml_nbytes(dst)) {
        return false;
    }
    Connection & connection = *target->connection;
    const wire::Region written = encode_region(*dst, target->remote.handle);
    if (BufferContext * source = context_of(*src)) {
        const wire::Region read = encode_region(*src, source->remote.handle);
        if (source->connection == target->connection) {
            return connection.data().copy(read, range_of(*src), written, range_of(*dst));
        }
        connection.transfers().transfer(*source->connection, read, range_of(*src), written, range_of(*dst));
        return true;
    }
    // The CPU computes synchronously, so the data in its memory is final.
    const bool from_cpu = ggml_backend_dev_type(ggml_backend_get_device(from)) == GGML_BACKEND_DEVICE_TYPE_CPU;
    if (from_cpu && to != from && buffer_of(*src) != nullptr && ggml_backend_buffer_is_host(buffer_of(*src))) {
        connection.data().set(written, range_of(*dst), 0, const_bytes(src->data, ggml_nbytes(src)), false);
        return true;
    }
    return false;
}

void mark_weights(Connection & connection, const ggml_cgraph & graph) {
    for (int i = 0; i < graph.n_nodes; ++i) {
        for (const ggml_tensor * src : graph.nodes[i]->src) {
            const BufferContext * found = src == nullptr ? nullptr : context_of(*src);
            if (found == nullptr || found->connection.get() != &connection) {
                continue;
            }
            if (buffer_of(*src)->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS) {
                connection.buffers().mark_as_weights(found->remote);
            }
        }
    }
}

// Whether the graph uses memory of a lost server. The back-end may have been made after the loss, with a new session.
bool uses_lost_memory(const ggml_cgraph & graph) {
    const auto is_lost = [](const ggml_tensor * tensor) {
        const BufferContext * buffer = tensor == nullptr ? nullptr : context_of(*tensor);
        return buffer != nullptr && buffer->connection->failed();
    };
    for (int i = 0; i < graph.n_nodes; ++i) {
        const ggml_tensor & node = *graph.nodes[i];
        if ((node.flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && (is_lost(&node) || std::ranges::any_of(node.src, is_lost))) {
            return true;
        }
    }
    return false;
}

ggml_status graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    BackendContext & context = self(backend);
    if (context.connection->buffers().has_unmarked_writes()) {
        mark_weights(*context.connection, *graph);
    }
    if (Connection::any_failed() && !context.connection->failed() && uses_lost_memory(*graph)) {
        log_error("{}: the graph uses memory of an RPC server that is lost: load the model again",
                  context.device.name());
        return GGML_STATUS_FAILED;
    }
    const std::shared_ptr<GroupUse> & group = context.group_use;
    if (group != nullptr && !group->begin_launch()) {
        return GGML_STATUS_FAILED;
    }
    const ggml_status launched = context.connection->launch(context.device.index(), *graph, [&](ggml_backend_buffer_t buffer) {
        const BufferContext * found = context_of(buffer);
        return found != nullptr && found->connection == context.connection ? found->remote.handle : uint64_t{0};
    });
    if (launched != GGML_STATUS_SUCCESS) {
        if (group != nullptr) {
            group->fail();
        }
        return launched;
    }
    return group == nullptr ? context.connection->await_result() : group->confirm(*context.connection);
}

void event_record(ggml_backend_t backend, ggml_backend_event_t event) {
    self(event).connection = self(backend).connection;
    self(event).ticket = self(backend).connection->last_ticket();
}

// Later commands of this back-end execute later on its server, and transfers from other servers keep their order. Only an
// event of another back-end's device must be waited for.
void event_wait(ggml_backend_t, ggml_backend_event_t event) {
    if (event->device->calls.event_synchronize != synchronize_event) {
        ggml_backend_event_synchronize(event);
    }
}

constexpr ggml_backend_calls backend_calls{
    .get_name = [](ggml_backend_t backend) { return self(backend).device.buffer_type_name().c_str(); },
    .free = free_backend,
    .set_tensor_async = set_tensor_async,
    .get_tensor_async = get_tensor_async,
    .set_tensor_2d_async = set_tensor_2d_async,
    .get_tensor_2d_async = get_tensor_2d_async,
    .cpy_tensor_async = cpy_tensor_async,
    .synchronize = [](ggml_backend_t backend) { self(backend).connection->synchronize(); },
    .graph_plan_create = nullptr,
    .graph_plan_free = nullptr,
    .graph_plan_update = nullptr,
    .graph_plan_compute = nullptr,
    .graph_compute = graph_compute,
    .event_record = event_record,
    .event_wait = event_wait,
    .graph_optimize = nullptr,
};

}  // namespace

std::shared_ptr<Connection> connection_of(ggml_backend_t backend) {
    return backend->guid == &guid ? self(backend).connection : nullptr;
}

void set_group_use(ggml_backend_t backend, std::shared_ptr<GroupUse> use) { self(backend).group_use = std::move(use); }

ggml_backend_t new_backend(Device & device) {
    auto connection = device.server().session(RemoteServer::Use::backend);
    if (!connection) {
        log_error("{}: {}", device.name(), connection.error().text);
        return nullptr;
    }
    return new ggml_backend{.guid = &guid,
                            .calls = backend_calls,
                            .device = device.ggml_device(),
                            .context = new BackendContext{device, std::move(*connection), nullptr}};
}

ggml_backend_event_t new_event(ggml_backend_dev_t device) {
    return new ggml_backend_event{.device = device, .context = new EventContext{}};
}

void free_event(ggml_backend_dev_t, ggml_backend_event_t event) {
    delete &self(event);
    delete event;
}

void synchronize_event(ggml_backend_dev_t, ggml_backend_event_t event) {
    if (self(event).connection != nullptr) {
        self(event).connection->await(self(event).ticket);
    }
}

}  // namespace caravan::client
