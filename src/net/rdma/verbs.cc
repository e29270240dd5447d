#include "net/rdma/verbs.h"

#include <string>

#include "platform/library.h"

namespace caravan::net::rdma {
namespace {

constexpr const char * library_name = "libibverbs.so.1";

Result<Verbs> load_library() {
    const auto library = platform::Library::load(library_name);
    if (!library) {
        return library.error().code == Errc::not_found
                   ? fail(Errc::unsupported, Reason::no_rdma_library, "{} is not installed", library_name)
                   : fail(Errc::unsupported, Reason::no_rdma_library, "{} cannot be loaded: {}", library_name,
                          library.error().text);
    }
    Verbs out{};
    std::string missing;
    const auto find = [&](auto & function, const char * name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(library->symbol(name));
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
    find(out.get_async_event, "ibv_get_async_event");
    find(out.ack_async_event, "ibv_ack_async_event");
    find(out.wc_status_str, "ibv_wc_status_str");
    if (!missing.empty()) {
        return fail(Errc::unsupported, Reason::no_rdma_library, "{} is too old: it lacks {}", library_name, missing);
    }
    return out;
}

}  // namespace

const Result<Verbs> & load_verbs() {
    static const Result<Verbs> loaded = load_library();
    return loaded;
}

}  // namespace caravan::net::rdma
