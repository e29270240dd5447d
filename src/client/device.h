// The objects that ggml sees: devices, buffer types, buffers, back-ends, events. C function tables over RemoteServer
// and Connection. All of it obeys abi/ggml_abi.h.
#pragma once

#include <memory>
#include <string>

#include "abi/ggml_abi.h"
#include "client/remote_server.h"

namespace caravan::client {

// One device of one server. Lives as long as the process.
class Device {
public:
    // `name` is "RPC0", "RPC1", …: unique in the process. `registry` is what ggml_backend_dev_backend_reg returns.
    Device(RemoteServer & server, uint32_t index, std::string name, ggml_backend_reg_t registry);
    Device(const Device &) = delete;
    Device & operator=(const Device &) = delete;

    RemoteServer & server() const { return server_; }
    uint32_t index() const { return index_; }
    const std::string & name() const { return name_; }
    // The name of its buffer type, buffers and back-ends: "RPC0[host:port]", with the device's index at its server. The
    // stock plug-in uses the same names, and command lines contain them (-ot 'exps=RPC0[host:port]').
    const std::string & buffer_type_name() const { return buffer_type_name_; }
    const std::string & description() const { return description_; }

    ggml_backend_dev_t ggml_device() { return &device_; }
    ggml_backend_buffer_type_t buffer_type() { return &buffer_type_; }

private:
    RemoteServer & server_;
    const uint32_t index_;
    const std::string name_, buffer_type_name_, description_;
    ggml_backend_device device_;
    ggml_backend_buffer_type buffer_type_;
};

// Null if it is not one of ours.
Device * device_of(ggml_backend_buffer_type_t type);

// buffer.cc
ggml_backend_buffer_type make_buffer_type(Device & device, ggml_backend_dev_t ggml_device);

// The connection and handle behind a buffer, both null if it is not one of ours.
struct BufferContext {
    std::shared_ptr<Connection> connection;
    RemoteBuffer remote;
};
BufferContext * context_of(ggml_backend_buffer_t buffer);
// The buffer in which a tensor (or what it is a view of) lies.
BufferContext * context_of(const ggml_tensor & tensor);

// backend.cc: a stream of computation on one device. Null, with a line in the log, if the server cannot be reached.
ggml_backend_t new_backend(Device & device);
ggml_backend_event_t new_event(ggml_backend_dev_t device);
void free_event(ggml_backend_dev_t device, ggml_backend_event_t event);
void synchronize_event(ggml_backend_dev_t device, ggml_backend_event_t event);

}  // namespace caravan::client
