#include "client/plugin/registration.h"

#include <filesystem>
#include <string_view>
#include <vector>

#include "base/environment.h"
#include "base/log.h"
#include "client/plugin/serve.h"
#include "platform/library.h"

namespace caravan::client {
namespace {

bool has_cpu(ggml_backend_reg_t reg) {
    for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); ++i) {
        if (ggml_backend_dev_type(ggml_backend_reg_dev_get(reg, i)) == GGML_BACKEND_DEVICE_TYPE_CPU) {
            return true;
        }
    }
    return false;
}

}  // namespace

void unload_other_rpc(ggml_backend_reg_t ours) {
    const std::string_view path = text_of(variable::backend_path);
    std::error_code error;
    if (path.empty() || !std::filesystem::equivalent(path, plugin_path(), error)) {
        return;
    }
    for (size_t i = ggml_backend_reg_count(); i-- > 0;) {
        const ggml_backend_reg_t reg = ggml_backend_reg_get(i);
        if (reg != ours && std::string_view(ggml_backend_reg_name(reg)) == "RPC") {
            log_debug("unloading another RPC back-end");
            ggml_backend_unload(reg);
        }
    }
}

void register_before_cpu(ggml_backend_reg_t ours) {
    if (ggml_backend_reg_dev_count(ours) == 0) {
        return;
    }
    std::vector<ggml_backend_reg_t> earlier;
    for (size_t i = 0; i < ggml_backend_reg_count() && ggml_backend_reg_get(i) != ours; ++i) {
        if (const ggml_backend_reg_t reg = ggml_backend_reg_get(i); has_cpu(reg)) {
            earlier.push_back(reg);
        }
    }
    if (earlier.empty()) {
        return;
    }
    for (const ggml_backend_reg_t reg : earlier) {
        // ggml may close it.
        if (!platform::pin_library_of(reinterpret_cast<const void *>(reg->calls.get_name))) {
            log_warning("the library of the {} back-end cannot be pinned, so the devices of GGML_RPC_SERVERS follow the "
                        "CPU: programs that pass all devices to ggml's scheduler in this order abort. Install the "
                        "plug-in in ggml's back-end folder instead",
                        ggml_backend_reg_name(reg));
            return;
        }
    }
    ggml_backend_register(ours);
    for (const ggml_backend_reg_t reg : earlier) {
        log_debug("registering the {} back-end after the devices of GGML_RPC_SERVERS", ggml_backend_reg_name(reg));
        ggml_backend_unload(reg);
        ggml_backend_register(reg);
    }
}

}  // namespace caravan::client
