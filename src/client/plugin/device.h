// The objects that ggml uses: devices, buffer types, buffers, back-ends and events, as C function tables over RemoteServer
// and Connection. They follow abi/ggml_abi.h.
#pragma once

#include <memory>
#include <string>

#include "abi/ggml_abi.h"
#include "abi/host_buffer_type.h"
#include "client/session/remote_server.h"

namespace caravan::client {

// One device of one server. Lives as long as the process.
class Device {
public:
    // `name` is "RPC0", "RPC1", …: unique in the process. `registry` is returned by ggml_backend_dev_backend_reg().
    Device(RemoteServer & server, uint32_t index, std::string name, ggml_backend_reg_t registry);
    Device(const Device &) = delete;
    Device & operator=(const Device &) = delete;

    RemoteServer & server() const { return server_; }
    uint32_t index() const { return index_; }
    const std::string & name() const { return name_; }
    // The name of its buffer type, buffers and back-ends: "RPC0[host:port]", with the device's index on its server. These are
    // the stock plug-in's names, because command lines contain them (-ot 'exps=RPC0[host:port]').
    const std::string & buffer_type_name() const { return buffer_type_name_; }
    const std::string & description() const { return description_; }

    ggml_backend_dev_t ggml_device() { return &device_; }
    ggml_backend_buffer_type_t buffer_type() { return buffer_type_.get(); }

private:
    RemoteServer & server_;
    const uint32_t index_;
    const std::string name_, buffer_type_name_, description_;
    ggml_backend_device device_;
    abi::HostBufferType buffer_type_;
};

// Null if the type belongs to another back-end.
Device * device_of(ggml_backend_buffer_type_t type);

// buffer.cc
ggml_backend_buffer_type make_buffer_type(Device & device, ggml_backend_dev_t ggml_device);

// The connection and handle of a buffer.
struct BufferContext {
    std::shared_ptr<Connection> connection;
    RemoteBuffer remote;
};
// Null if the buffer belongs to another back-end.
BufferContext * context_of(ggml_backend_buffer_t buffer);
// The context of buffer_of(tensor).
BufferContext * context_of(const ggml_tensor & tensor);

// backend.cc. Null if the server cannot be reached, which is logged.
ggml_backend_t new_backend(Device & device);
// The session of a back-end. Null if it belongs to another plug-in.
std::shared_ptr<Connection> connection_of(ggml_backend_t backend);
// The back-end is one of a context's that add up tensors. Precondition: it is this plug-in's.
class GroupUse;
void set_group_use(ggml_backend_t backend, std::shared_ptr<GroupUse> use);
ggml_backend_event_t new_event(ggml_backend_dev_t device);
void free_event(ggml_backend_dev_t device, ggml_backend_event_t event);
void synchronize_event(ggml_backend_dev_t device, ggml_backend_event_t event);

}  // namespace caravan::client
