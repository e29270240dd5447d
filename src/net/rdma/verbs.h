// libibverbs, loaded at run time, so that a build with RDMA also runs where the library is not installed.
//
// Inline functions of the header that dispatch through the device's own table (ibv_post_send, ibv_poll_cq, ...) are called
// directly. Functions and macros that need the library are called through Verbs: a direct call does not link.
#pragma once

#include <infiniband/verbs.h>

#include "base/error.h"

namespace caravan::net::rdma {

struct Verbs {
    ibv_device ** (*get_device_list)(int *);
    void (*free_device_list)(ibv_device **);
    const char * (*get_device_name)(ibv_device *);
    ibv_context * (*open_device)(ibv_device *);
    int (*close_device)(ibv_context *);
    int (*query_device)(ibv_context *, ibv_device_attr *);
    // Fills the members of ibv_port_attr up to `flags`.
    int (*query_port)(ibv_context *, uint8_t, _compat_ibv_port_attr *);
    ssize_t (*query_gid_table)(ibv_context *, ibv_gid_entry *, size_t, uint32_t, size_t);
    ibv_pd * (*alloc_pd)(ibv_context *);
    int (*dealloc_pd)(ibv_pd *);
    ibv_mr * (*reg_mr)(ibv_pd *, void *, size_t, int);
    int (*dereg_mr)(ibv_mr *);
    ibv_comp_channel * (*create_comp_channel)(ibv_context *);
    int (*destroy_comp_channel)(ibv_comp_channel *);
    ibv_cq * (*create_cq)(ibv_context *, int, void *, ibv_comp_channel *, int);
    int (*destroy_cq)(ibv_cq *);
    ibv_qp * (*create_qp)(ibv_pd *, ibv_qp_init_attr *);
    int (*destroy_qp)(ibv_qp *);
    int (*modify_qp)(ibv_qp *, ibv_qp_attr *, int);
    int (*get_cq_event)(ibv_comp_channel *, ibv_cq **, void **);
    void (*ack_cq_events)(ibv_cq *, unsigned);
    int (*get_async_event)(ibv_context *, ibv_async_event *);
    void (*ack_async_event)(ibv_async_event *);
    const char * (*wc_status_str)(ibv_wc_status);
};

// The first call loads the library, which stays loaded. The error is worded for the log. Threads: any.
const Result<Verbs> & load_verbs();

// Precondition: load_verbs() succeeded, which the existence of a device implies.
inline const Verbs & verbs() { return *load_verbs(); }

}  // namespace caravan::net::rdma
