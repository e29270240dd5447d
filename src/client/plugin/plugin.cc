// The plug-in's entry points: those that ggml's loader calls, and the functions of ggml-rpc.h.

#include <cstdio>
#include <string>
#include <vector>

#include "abi/abi_check.h"
#include "base/log.h"
#include "base/printable.h"
#include "client/plugin/registration.h"
#include "client/plugin/registry.h"
#include "client/plugin/serve.h"
#include "ggml-rpc.h"

namespace {

using namespace caravan;

// Writes to ggml's log, which the program may have redirected. Debug lines, which GGML_RPC_DEBUG enables, go to stderr even
// if the program hides its own.
void write_to_ggml_log(LogLevel level, std::string_view line) {
    constexpr size_t longest = 4096;  // bytes; names of servers, tensors and files may contain anything
    const std::string whole = formatted("{}{}\n", level == LogLevel::debug ? "rpc debug: " : "", printable(line, longest));
    ggml_log_callback callback = nullptr;
    void * user_data = nullptr;
    if (level != LogLevel::debug) {
        ggml_log_get(&callback, &user_data);
    }
    if (callback == nullptr) {
        std::fwrite(whole.data(), 1, whole.size(), stderr);
        return;
    }
    callback(level == LogLevel::info      ? GGML_LOG_LEVEL_INFO
             : level == LogLevel::warning ? GGML_LOG_LEVEL_WARN
                                          : GGML_LOG_LEVEL_ERROR,
             whole.c_str(), user_data);
}

// Whether the plug-in supports this ggml. If not, logs the reason once.
bool is_compatible() {
    static const bool result = [] {
        set_log_sink(write_to_ggml_log);
        const auto checked = caravan::abi::check();
        if (!checked) {
            log_warning("Caravan's RPC plug-in is disabled: {}", checked.error().text);
        }
        return checked.has_value();
    }();
    return result;
}

}  // namespace

extern "C" {

// ggml loads the plug-in with the highest score; the stock one has none, and 0 means "unusable".
GGML_BACKEND_API int ggml_backend_score(void) { return is_compatible() ? 100 : 0; }

GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void) {
    if (!is_compatible()) {
        return nullptr;
    }
    const ggml_backend_reg_t ours = client::Registry::instance().main_entry();
    client::unload_other_rpc(ours);
    client::register_before_cpu(ours);
    return ours;
}

ggml_backend_reg_t ggml_backend_rpc_reg(void) { return ggml_backend_init(); }

ggml_backend_reg_t ggml_backend_rpc_add_server(const char * endpoint) {
    return client::Registry::instance().add_server(endpoint);
}

ggml_backend_t ggml_backend_rpc_init(const char * endpoint, uint32_t device) {
    client::Device * found = client::Registry::instance().find_device(endpoint, device);
    return found == nullptr ? nullptr : client::new_backend(*found);
}

bool ggml_backend_is_rpc(ggml_backend_t backend) {
    return backend != nullptr && backend->device != nullptr &&
           backend->device->reg == client::Registry::instance().main_entry();
}

ggml_backend_buffer_type_t ggml_backend_rpc_buffer_type(const char * endpoint, uint32_t device) {
    client::Device * found = client::Registry::instance().find_device(endpoint, device);
    return found == nullptr ? nullptr : found->buffer_type();
}

void ggml_backend_rpc_get_device_memory(const char * endpoint, uint32_t device, size_t * free, size_t * total) {
    *free = *total = 0;
    if (client::Device * found = client::Registry::instance().find_device(endpoint, device)) {
        ggml_backend_dev_memory(found->ggml_device(), free, total);
    }
}

void ggml_backend_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices,
                                   ggml_backend_dev_t * devices) {
    std::vector<std::string> names;
    for (size_t i = 0; i < n_devices; ++i) {
        names.emplace_back(ggml_backend_dev_name(devices[i]));
    }
    log_error("{}", client::become_server(endpoint, cache_dir, n_threads, names).text);
}

}  // extern "C"
