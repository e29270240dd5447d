#include "server/confine/driver_caches.h"

#include <algorithm>
#include <string_view>

#include "base/environment.h"
#include "base/formatted.h"
#include "platform/file.h"

namespace caravan::server {
namespace {

namespace fs = std::filesystem;

struct DriverCache {
    std::string_view backend;
    std::vector<fs::path> folders;
    const char * setting;  // the variable that selects another folder
};

fs::path folder_from(const Variable & variable, const fs::path & otherwise) {
    const std::string_view value = text_of(variable);
    return value.empty() ? otherwise : fs::path(value);
}

std::vector<DriverCache> all_caches() {
    const fs::path home = folder_from(variable::home, "/nonexistent");
    const fs::path cache = folder_from(variable::cache_home, home / ".cache");
    return {
        {"CUDA", {folder_from(variable::cuda_cache, home / ".nv")}, "CUDA_CACHE_PATH"},
        {"Vulkan",
         {folder_from(variable::mesa_cache, cache / "mesa_shader_cache"), cache / "mesa_shader_cache_db", cache / "nvidia"},
         "XDG_CACHE_HOME"},
        {"ROCm", {cache / "comgr"}, "XDG_CACHE_HOME"},
        {"SYCL", {cache / "neo_compiler_cache"}, "XDG_CACHE_HOME"},
    };
}

// Also makes the folder above it, which XDG_CACHE_HOME names, but no others.
Result<> make(const fs::path & folder) {
    auto made = platform::make_private_directory(folder);
    if (!made && platform::make_private_directory(folder.parent_path())) {
        made = platform::make_private_directory(folder);
    }
    return made;
}

}  // namespace

std::vector<fs::path> driver_caches() {
    std::vector<fs::path> folders;
    for (const DriverCache & cache : all_caches()) {
        folders.insert(folders.end(), cache.folders.begin(), cache.folders.end());
    }
    return folders;
}

std::string make_driver_caches(const std::set<std::string> & backends) {
    std::string warning;
    for (const DriverCache & cache : all_caches()) {
        if (!backends.contains(std::string(cache.backend))) {
            continue;
        }
        bool is_any_writable = false;
        std::string cause;
        for (const fs::path & folder : cache.folders) {
            const auto made = make(folder);
            is_any_writable |= made.has_value();
            if (!made && cause.empty()) {
                cause = formatted("{}: {}", folder.string(), made.error().text);
            }
        }
        if (!is_any_writable) {
            warning += formatted("{}the driver of {} cannot keep the kernels that it compiles ({}): each session may compile "
                                 "them again; set {} to a folder that this server can write",
                                 warning.empty() ? "" : "; ", cache.backend, cause, cache.setting);
        }
    }
    return warning;
}

}  // namespace caravan::server
