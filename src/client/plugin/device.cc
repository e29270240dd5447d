#include "client/plugin/device.h"

#include "base/config.h"
#include "base/log.h"
#include "client/session/end_program.h"

namespace caravan::client {
namespace {

Device & self(ggml_backend_dev_t device) { return *static_cast<Device *>(device->context); }

void get_memory(ggml_backend_dev_t device, size_t * free, size_t * total) {
    *free = *total = 0;
    const auto memory = self(device).server().memory(self(device).index());
    if (!memory) {
        if (servers_are_required()) {  // with 0 bytes the program would place the model elsewhere
            end_program(formatted("RPC server {}: {}, and GGML_RPC_REQUIRE=1 is set",
                                  self(device).server().endpoint().text(), memory.error().text));
        }
        const net::Endpoint & endpoint = self(device).server().endpoint();
        log_error("RPC server {}: cannot query the memory of device {}: {}", endpoint.text(), self(device).index(),
                  net::without_endpoint(endpoint, memory.error().text));
        return;
    }
    *free = memory->free;
    *total = memory->total;
}

void get_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    props->name = self(device).name().c_str();
    props->description = self(device).description().c_str();
    props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    props->device_id = nullptr;
    get_memory(device, &props->memory_free, &props->memory_total);
    props->caps = {.async = true, .host_buffer = false, .buffer_from_host_ptr = false, .events = true,
                   .mmap_support = true};
}

bool supports_buffer_type(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    const Device * owner = device_of(type);
    return owner != nullptr && &owner->server() == &self(device).server() && owner->index() == self(device).index();
}

constexpr ggml_backend_device_calls calls{
    .get_name = [](ggml_backend_dev_t device) { return self(device).name().c_str(); },
    .get_description = [](ggml_backend_dev_t device) { return self(device).description().c_str(); },
    .get_memory = get_memory,
    // Also for a remote CPU: programs offload to devices of type GPU only.
    .get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; },
    .get_props = get_props,
    .init_backend = [](ggml_backend_dev_t device, const char *) { return new_backend(self(device)); },
    .get_buffer_type = [](ggml_backend_dev_t device) { return self(device).buffer_type(); },
    .get_host_buffer_type = nullptr,
    .buffer_from_host_ptr = nullptr,
    .supports_op = [](ggml_backend_dev_t device, const ggml_tensor * op) {
        return self(device).server().supports(self(device).index(), *op);
    },
    .supports_buft = supports_buffer_type,
    .offload_op = nullptr,
    .event_new = new_event,
    .event_free = free_event,
    .event_synchronize = synchronize_event,
};

}  // namespace

Device::Device(RemoteServer & server, uint32_t index, std::string name, ggml_backend_reg_t registry)
    : server_(server),
      index_(index),
      name_(std::move(name)),
      buffer_type_name_(formatted("RPC{}[{}]", index, server.endpoint().text())),
      description_(server.description(index)),
      device_{.calls = calls, .reg = registry, .context = this},
      buffer_type_(make_buffer_type(*this, &device_)) {}

}  // namespace caravan::client
