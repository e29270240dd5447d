#include "net/rdma/verbs.h"

#include <dlfcn.h>

#include <string_view>

namespace caravan::net::rdma {
namespace {

constexpr const char * library_name = "libibverbs.so.1";

std::string loader_error() {
    const char * text = ::dlerror();
    return text == nullptr ? "unknown error" : text;
}

Result<Verbs> load_library() {
    void * library = ::dlopen(library_name, RTLD_NOW | RTLD_LOCAL);  // never closed: its threads and devices may be in use
    if (library == nullptr) {
        const std::string reason = loader_error();
        const bool is_missing = reason.contains("libibverbs.so.1: cannot open shared object file: No such file");
        return is_missing ? fail(Errc::unsupported, "{} is not installed", library_name)
                          : fail(Errc::unsupported, "{} cannot be loaded: {}", library_name, reason);
    }
    Verbs out{};
    std::string missing;
    // dlsym() selects the default version of a symbol, as the linker does.
    const auto find = [&](auto & function, const char * name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
        if (function == nullptr && missing.empty()) {
            missing = name;
        }
    };
    find(out.get_device_list, "ibv_get_device_list");
    find(out.free_device_list, "ibv_free_device_list");
    find(out.get_device_name, "ibv_get_device_name");
    find(out.open_device, "ibv_open_device");
    find(out.close_device, "ibv_close_device");
    find(out.query_device, "ibv_query_device");
    find(out.query_port, "ibv_query_port");
    find(out.query_gid_table, "_ibv_query_gid_table");  // what the header's inline function calls
    find(out.alloc_pd, "ibv_alloc_pd");
    find(out.dealloc_pd, "ibv_dealloc_pd");
    find(out.reg_mr, "ibv_reg_mr");
    find(out.dereg_mr, "ibv_dereg_mr");
    find(out.create_comp_channel, "ibv_create_comp_channel");
    find(out.destroy_comp_channel, "ibv_destroy_comp_channel");
    find(out.create_cq, "ibv_create_cq");
    find(out.destroy_cq, "ibv_destroy_cq");
    find(out.create_qp, "ibv_create_qp");
    find(out.destroy_qp, "ibv_destroy_qp");
    find(out.modify_qp, "ibv_modify_qp");
    find(out.get_cq_event, "ibv_get_cq_event");
    find(out.ack_cq_events, "ibv_ack_cq_events");
    find(out.wc_status_str, "ibv_wc_status_str");
    if (!missing.empty()) {
        return fail(Errc::unsupported, "{} is too old: it lacks {}", library_name, missing);
    }
    return out;
}

}  // namespace

const Result<Verbs> & load_verbs() {
    static const Result<Verbs> loaded = load_library();
    return loaded;
}

}  // namespace caravan::net::rdma
