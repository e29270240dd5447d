// The plug-in's entry points: those that ggml's loader calls, and the functions of ggml-rpc.h.

#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "abi/abi_check.h"
#include "base/log.h"
#include "base/printable.h"
#include "client/plugin/host_ggml.h"
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

// Whether the plug-in supports the ggml that calls it. If not, logs the reason once.
bool is_compatible(const void * caller) {
    static std::once_flag once, refused;
    static bool is_supported = false;
    const auto bound = client::bind_ggml(caller);
    const auto log_refusal = [](const Error & error) { log_warning("Caravan's RPC plug-in is disabled: {}", error.text); };
    if (!bound) {
        std::call_once(refused, [&] { log_refusal(bound.error()); });
        return false;
    }
    std::call_once(once, [&] {
        set_log_sink(write_to_ggml_log);
        const auto checked = caravan::abi::check_host();
        is_supported = checked.has_value();
        if (!is_supported) {
            log_refusal(checked.error());
        }
    });
    return is_supported;
}

ggml_backend_reg_t initialize(const void * caller) {
    if (!is_compatible(caller)) {
        return nullptr;
    }
    const ggml_backend_reg_t ours = client::Registry::instance().main_entry();
    client::unload_other_rpc(ours);
    client::register_before_cpu(ours);
    return ours;
}

// Null if there is none, or the plug-in does not support this ggml.
client::Device * find_device(const void * caller, const char * endpoint, uint32_t device) {
    return is_compatible(caller) ? client::Registry::instance().find_device(endpoint, device) : nullptr;
}

}  // namespace

extern "C" {

// ggml loads the plug-in with the highest score; the stock one has none, and 0 means "unusable".
GGML_BACKEND_API int ggml_backend_score(void) { return is_compatible(__builtin_return_address(0)) ? 100 : 0; }

GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void) { return initialize(__builtin_return_address(0)); }

ggml_backend_reg_t ggml_backend_rpc_reg(void) { return initialize(__builtin_return_address(0)); }

ggml_backend_reg_t ggml_backend_rpc_add_server(const char * endpoint) {
    return is_compatible(__builtin_return_address(0)) ? client::Registry::instance().add_server(endpoint) : nullptr;
}

ggml_backend_t ggml_backend_rpc_init(const char * endpoint, uint32_t device) {
    client::Device * found = find_device(__builtin_return_address(0), endpoint, device);
    return found == nullptr ? nullptr : client::new_backend(*found);
}

bool ggml_backend_is_rpc(ggml_backend_t backend) {
    return backend != nullptr && is_compatible(__builtin_return_address(0)) && backend->device != nullptr &&
           backend->device->reg == client::Registry::instance().main_entry();
}

ggml_backend_buffer_type_t ggml_backend_rpc_buffer_type(const char * endpoint, uint32_t device) {
    client::Device * found = find_device(__builtin_return_address(0), endpoint, device);
    return found == nullptr ? nullptr : found->buffer_type();
}

void ggml_backend_rpc_get_device_memory(const char * endpoint, uint32_t device, size_t * free, size_t * total) {
    *free = *total = 0;
    if (client::Device * found = find_device(__builtin_return_address(0), endpoint, device)) {
        ggml_backend_dev_memory(found->ggml_device(), free, total);
    }
}

void ggml_backend_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices,
                                   ggml_backend_dev_t * devices) {
    if (!is_compatible(__builtin_return_address(0))) {
        return;
    }
    std::vector<std::string> names;
    for (size_t i = 0; i < n_devices; ++i) {
        names.emplace_back(ggml_backend_dev_name(devices[i]));
    }
    log_error("{}", client::become_server(endpoint, cache_dir, n_threads, names).text);
}

}  // extern "C"
