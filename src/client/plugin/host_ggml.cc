// Declares the functions of ggml as hidden, so that the plug-in does not export them.
#undef GGML_SHARED
#undef GGML_BACKEND_SHARED

#include "client/plugin/host_ggml.h"

#include <mutex>
#include <string>

#include "abi/ggml_abi.h"
#include "platform/library.h"

// X(result, name, (parameters), (arguments))
#define CARAVAN_GGML_FUNCTIONS(X)                                                                                             \
    X(const char *, ggml_version, (void), ())                                                                                 \
    X(ggml_tensor *, ggml_add, (ggml_context * context, ggml_tensor * a, ggml_tensor * b), (context, a, b))                   \
    X(ggml_backend_buffer_t, ggml_backend_buffer_init,                                                                        \
      (ggml_backend_buffer_type_t type, ggml_backend_buffer_calls calls, void * context, size_t size),                        \
      (type, calls, context, size))                                                                                           \
    X(bool, ggml_backend_buffer_is_host, (ggml_backend_buffer_t buffer), (buffer))                                            \
    X(ggml_backend_reg_t, ggml_backend_dev_backend_reg, (ggml_backend_dev_t device), (device))                                \
    X(size_t, ggml_backend_dev_count, (void), ())                                                                             \
    X(ggml_backend_dev_t, ggml_backend_dev_get, (size_t index), (index))                                                      \
    X(void, ggml_backend_dev_memory, (ggml_backend_dev_t device, size_t * free, size_t * total), (device, free, total))       \
    X(const char *, ggml_backend_dev_name, (ggml_backend_dev_t device), (device))                                             \
    X(enum ggml_backend_dev_type, ggml_backend_dev_type, (ggml_backend_dev_t device), (device))                               \
    X(void, ggml_backend_event_synchronize, (ggml_backend_event_t event), (event))                                            \
    X(ggml_backend_dev_t, ggml_backend_get_device, (ggml_backend_t backend), (backend))                                       \
    X(const char *, ggml_backend_name, (ggml_backend_t backend), (backend))                                                   \
    X(size_t, ggml_backend_reg_count, (void), ())                                                                             \
    X(size_t, ggml_backend_reg_dev_count, (ggml_backend_reg_t reg), (reg))                                                    \
    X(ggml_backend_dev_t, ggml_backend_reg_dev_get, (ggml_backend_reg_t reg, size_t index), (reg, index))                     \
    X(ggml_backend_reg_t, ggml_backend_reg_get, (size_t index), (index))                                                      \
    X(const char *, ggml_backend_reg_name, (ggml_backend_reg_t reg), (reg))                                                   \
    X(void, ggml_backend_register, (ggml_backend_reg_t reg), (reg))                                                           \
    X(void, ggml_backend_unload, (ggml_backend_reg_t reg), (reg))                                                             \
    X(int64_t, ggml_blck_size, (enum ggml_type type), (type))                                                                 \
    X(void, ggml_build_forward_expand, (ggml_cgraph * graph, ggml_tensor * tensor), (graph, tensor))                          \
    X(void, ggml_free, (ggml_context * context), (context))                                                                   \
    X(int, ggml_graph_n_nodes, (ggml_cgraph * graph), (graph))                                                                \
    X(int, ggml_graph_size, (ggml_cgraph * graph), (graph))                                                                   \
    X(const char *, ggml_glu_op_name, (enum ggml_glu_op op), (op))                                                            \
    X(ggml_context *, ggml_init, (ggml_init_params parameters), (parameters))                                                 \
    X(bool, ggml_is_contiguous, (const ggml_tensor * tensor), (tensor))                                                       \
    X(bool, ggml_is_empty, (const ggml_tensor * tensor), (tensor))                                                            \
    X(bool, ggml_is_quantized, (enum ggml_type type), (type))                                                                 \
    X(void, ggml_log_get, (ggml_log_callback * callback, void ** user_data), (callback, user_data))                           \
    X(size_t, ggml_nbytes, (const ggml_tensor * tensor), (tensor))                                                            \
    X(ggml_cgraph *, ggml_new_graph_custom, (ggml_context * context, size_t size, bool grads), (context, size, grads))        \
    X(ggml_tensor *, ggml_new_tensor_1d, (ggml_context * context, enum ggml_type type, int64_t size), (context, type, size))  \
    X(int64_t, ggml_nrows, (const ggml_tensor * tensor), (tensor))                                                            \
    X(bool, ggml_op_alloc_size_may_expand, (enum ggml_op op), (op))                                                           \
    X(const char *, ggml_op_name, (enum ggml_op op), (op))                                                                    \
    X(size_t, ggml_tensor_overhead, (void), ())                                                                               \
    X(size_t, ggml_type_size, (enum ggml_type type), (type))                                                                  \
    X(const char *, ggml_unary_op_name, (enum ggml_unary_op op), (op))

namespace {

// Null until bind_ggml() has succeeded.
struct Functions {
#define CARAVAN_POINTER(result, name, parameters, arguments) result(*name) parameters = nullptr;
    CARAVAN_GGML_FUNCTIONS(CARAVAN_POINTER)
#undef CARAVAN_POINTER
} functions;

}  // namespace

extern "C" {
#define CARAVAN_FORWARD(result, name, parameters, arguments) \
    result name parameters { return functions.name arguments; }
CARAVAN_GGML_FUNCTIONS(CARAVAN_FORWARD)
#undef CARAVAN_FORWARD
}

namespace caravan::client {
namespace {

// The library with ggml's code, and the version function of its ggml; the latter is null if there is none.
struct Host {
    platform::Library library;
    void * version;
};

Host find_host(const void * caller) {
    const auto containing = platform::Library::containing(caller);
    if (void * version = containing ? containing->symbol("ggml_version") : nullptr; version != nullptr) {
        return {*containing, version};
    }
    const auto global = platform::Library::global();
    return {global, global.symbol("ggml_version")};
}

}  // namespace

Result<> bind_ggml(const void * caller) {
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    const Host host = find_host(caller);
    if (host.version == nullptr) {
        return fail(Errc::not_found, "no ggml is visible in {}", platform::library_of(caller));
    }
    if (functions.ggml_version != nullptr) {
        if (reinterpret_cast<void *>(functions.ggml_version) != host.version) {
            return fail(Errc::unsupported, "the program has two ggml libraries, {} and {}: the plug-in serves the first only",
                        platform::library_of(reinterpret_cast<void *>(functions.ggml_version)),
                        platform::library_of(host.version));
        }
        return {};
    }
    Functions found;
    std::string missing;
#define CARAVAN_RESOLVE(result, name, parameters, arguments)                                    \
    found.name = reinterpret_cast<result(*) parameters>(host.library.symbol(#name));            \
    missing = found.name == nullptr && missing.empty() ? #name : missing;
    CARAVAN_GGML_FUNCTIONS(CARAVAN_RESOLVE)
#undef CARAVAN_RESOLVE
    if (!missing.empty()) {
        return fail(Errc::unsupported, "built for ggml {}, but this program has ggml {} ({}), which lacks {}",
                    CARAVAN_GGML_VERSION, found.ggml_version(), platform::library_of(host.version), missing);
    }
    functions = found;
    return {};
}

}  // namespace caravan::client
