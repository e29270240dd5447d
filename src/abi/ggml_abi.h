// ggml's plug-in ABI, backend API version 3 (ggml 0.27), and where version 2 (ggml 0.25) differs. ggml installs no header for
// it, so the layouts are declared here as observed in its binaries: a table is an array of 8-byte function pointers, and an
// object begins with its table. The static_asserts fix each offset; abi_check.h verifies at start-up what is observable at run
// time.
//
// These structs complete the opaque types of ggml-backend.h. All calls come from threads of the host program. ggml does
// not serialize calls on a device or a buffer type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml-backend.h"
#include "ggml.h"

namespace caravan::abi {
inline constexpr int backend_api_version = 3;
}

struct ggml_backend_buffer_type_calls {
    const char * (*get_name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t size);
    ggml_backend_buffer_t (*alloc_buffer_n)(ggml_backend_buffer_type_t, ggml_tensor ** tensors, int n);  // optional
    size_t (*get_alignment)(ggml_backend_buffer_type_t);
    size_t (*get_max_size)(ggml_backend_buffer_type_t);                             // optional: no limit
    size_t (*get_alloc_size)(ggml_backend_buffer_type_t, const ggml_tensor *);      // optional: ggml_nbytes
    size_t (*get_alloc_size_n)(ggml_backend_buffer_type_t, ggml_tensor **, int n);  // optional
    bool (*is_host)(ggml_backend_buffer_type_t);                                    // optional: false
};

struct ggml_backend_buffer_type {
    ggml_backend_buffer_type_calls calls;
    ggml_backend_dev_t device;
    void * context;
};

struct ggml_backend_buffer_calls {
    void (*free_buffer)(ggml_backend_buffer_t);  // frees the context; ggml frees the object
    void * (*get_base)(ggml_backend_buffer_t);
    ggml_status (*init_tensor)(ggml_backend_buffer_t, ggml_tensor *);  // optional
    void (*memset_tensor)(ggml_backend_buffer_t, ggml_tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(ggml_backend_buffer_t, ggml_tensor *, const void * data, size_t offset, size_t size);
    void (*get_tensor)(ggml_backend_buffer_t, const ggml_tensor *, void * data, size_t offset, size_t size);
    void (*set_tensor_2d)(ggml_backend_buffer_t, ggml_tensor *, const void * data, size_t offset, size_t size,
                          size_t n_copies, size_t stride_tensor, size_t stride_data);  // optional
    void (*get_tensor_2d)(ggml_backend_buffer_t, const ggml_tensor *, void * data, size_t offset, size_t size,
                          size_t n_copies, size_t stride_tensor, size_t stride_data);  // optional
    bool (*cpy_tensor)(ggml_backend_buffer_t, const ggml_tensor * src, ggml_tensor * dst);  // optional; owns dst
    void (*clear)(ggml_backend_buffer_t, uint8_t value);
    void (*reset)(ggml_backend_buffer_t);  // optional
};

struct ggml_backend_buffer {
    ggml_backend_buffer_calls calls;
    ggml_backend_buffer_type_t buft;
    void * context;
    size_t size;
    ggml_backend_buffer_usage usage;
};

struct ggml_backend_graph_optimize_params;

struct ggml_backend_calls {
    const char * (*get_name)(ggml_backend_t);
    void (*free)(ggml_backend_t);  // also deletes the ggml_backend object
    void (*set_tensor_async)(ggml_backend_t, ggml_tensor *, const void *, size_t offset, size_t size);
    void (*get_tensor_async)(ggml_backend_t, const ggml_tensor *, void *, size_t offset, size_t size);
    void (*set_tensor_2d_async)(ggml_backend_t, ggml_tensor *, const void *, size_t offset, size_t size,
                                size_t n_copies, size_t stride_tensor, size_t stride_data);
    void (*get_tensor_2d_async)(ggml_backend_t, const ggml_tensor *, void *, size_t offset, size_t size,
                                size_t n_copies, size_t stride_tensor, size_t stride_data);
    bool (*cpy_tensor_async)(ggml_backend_t src, ggml_backend_t dst, const ggml_tensor * from, ggml_tensor * to);
    void (*synchronize)(ggml_backend_t);
    ggml_backend_graph_plan_t (*graph_plan_create)(ggml_backend_t, const ggml_cgraph *);
    void (*graph_plan_free)(ggml_backend_t, ggml_backend_graph_plan_t);
    void (*graph_plan_update)(ggml_backend_t, ggml_backend_graph_plan_t, const ggml_cgraph *);
    ggml_status (*graph_plan_compute)(ggml_backend_t, ggml_backend_graph_plan_t);
    ggml_status (*graph_compute)(ggml_backend_t, ggml_cgraph *);
    void (*event_record)(ggml_backend_t, ggml_backend_event_t);
    void (*event_wait)(ggml_backend_t, ggml_backend_event_t);
    void (*graph_optimize)(ggml_backend_t, ggml_cgraph *, ggml_backend_graph_optimize_params *);
};

struct ggml_backend {
    ggml_guid_t guid;
    ggml_backend_calls calls;
    ggml_backend_dev_t device;
    void * context;
};

struct ggml_backend_event {
    ggml_backend_dev_t device;
    void * context;
};

struct ggml_backend_device_calls {
    const char * (*get_name)(ggml_backend_dev_t);
    const char * (*get_description)(ggml_backend_dev_t);
    void (*get_memory)(ggml_backend_dev_t, size_t * free, size_t * total);
    enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
    void (*get_props)(ggml_backend_dev_t, ggml_backend_dev_props *);
    ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char * params);
    ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
    ggml_backend_buffer_type_t (*get_host_buffer_type)(ggml_backend_dev_t);                            // optional
    ggml_backend_buffer_t (*buffer_from_host_ptr)(ggml_backend_dev_t, void *, size_t, size_t max);  // optional
    bool (*supports_op)(ggml_backend_dev_t, const ggml_tensor *);
    bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
    bool (*offload_op)(ggml_backend_dev_t, const ggml_tensor *);  // optional
    ggml_backend_event_t (*event_new)(ggml_backend_dev_t);
    void (*event_free)(ggml_backend_dev_t, ggml_backend_event_t);
    void (*event_synchronize)(ggml_backend_dev_t, ggml_backend_event_t);
};

struct ggml_backend_device {
    ggml_backend_device_calls calls;
    ggml_backend_reg_t reg;
    void * context;
};

struct ggml_backend_reg_calls {
    const char * (*get_name)(ggml_backend_reg_t);
    size_t (*get_device_count)(ggml_backend_reg_t);
    ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, size_t index);
    void * (*get_proc_address)(ggml_backend_reg_t, const char * name);  // optional
};

struct ggml_backend_reg {
    int api_version;
    ggml_backend_reg_calls calls;
    void * context;
};

struct ggml_hash_set {
    size_t size;
    uint32_t * used;  // one bit per slot
    ggml_tensor ** keys;
};

struct ggml_cgraph {
    int size;
    int n_nodes;
    int n_leafs;
    ggml_tensor ** nodes;
    ggml_tensor ** grads;
    ggml_tensor ** grad_accs;
    ggml_tensor ** leafs;
    int32_t * use_counts;  // indexed by the slots of `visited`
    ggml_hash_set visited;
    int order;
    uint64_t uid;  // constant while a program reuses the graph; 0: the program does not reuse it
};

namespace caravan::abi::api_2 {

struct BufferTypeCalls {
    const char * (*get_name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t size);
    size_t (*get_alignment)(ggml_backend_buffer_type_t);
    size_t (*get_max_size)(ggml_backend_buffer_type_t);
    size_t (*get_alloc_size)(ggml_backend_buffer_type_t, const ggml_tensor *);
    bool (*is_host)(ggml_backend_buffer_type_t);
};

struct BufferType {
    BufferTypeCalls calls;
    ggml_backend_dev_t device;
    void * context;
};
static_assert(sizeof(BufferType) == 64 && offsetof(BufferType, device) == 0x30);

}  // namespace caravan::abi::api_2

static_assert(sizeof(void *) == 8, "these layouts are those of 64-bit machines");
static_assert(sizeof(ggml_backend_buffer_type) == 80 && offsetof(ggml_backend_buffer_type, device) == 0x40);
static_assert(sizeof(ggml_backend_buffer_calls) == 88);
static_assert(sizeof(ggml_backend_buffer) == 0x78 && offsetof(ggml_backend_buffer, buft) == 0x58 &&
              offsetof(ggml_backend_buffer, context) == 0x60 && offsetof(ggml_backend_buffer, size) == 0x68 &&
              offsetof(ggml_backend_buffer, usage) == 0x70);
static_assert(sizeof(ggml_backend) == 152 && offsetof(ggml_backend, calls) == 0x08 &&
              offsetof(ggml_backend, device) == 0x88 && offsetof(ggml_backend, context) == 0x90);
static_assert(offsetof(ggml_backend, calls.cpy_tensor_async) == 0x38 &&
              offsetof(ggml_backend, calls.graph_compute) == 0x68 &&
              offsetof(ggml_backend, calls.graph_optimize) == 0x80);
static_assert(sizeof(ggml_backend_event) == 16);
static_assert(sizeof(ggml_backend_device) == 136 && offsetof(ggml_backend_device, reg) == 0x78 &&
              offsetof(ggml_backend_device, calls.supports_op) == 0x48 &&
              offsetof(ggml_backend_device, calls.event_synchronize) == 0x70);
static_assert(sizeof(ggml_backend_reg) == 48 && offsetof(ggml_backend_reg, calls) == 0x08 &&
              offsetof(ggml_backend_reg, context) == 0x28);
static_assert(sizeof(ggml_cgraph) == 96 && offsetof(ggml_cgraph, n_nodes) == 4 && offsetof(ggml_cgraph, nodes) == 16 &&
              offsetof(ggml_cgraph, use_counts) == 48 && offsetof(ggml_cgraph, visited) == 56 &&
              offsetof(ggml_cgraph, order) == 80 && offsetof(ggml_cgraph, uid) == 88);
static_assert(sizeof(ggml_tensor) == 336 && GGML_MAX_DIMS == 4 && GGML_MAX_SRC == 10 && GGML_MAX_OP_PARAMS == 64 &&
              GGML_MAX_NAME == 64);

extern "C" {
// Both are exported by libggml-base and declared in no header.
// Takes the table by value. The usage of the new buffer is ANY.
GGML_API ggml_backend_buffer_t ggml_backend_buffer_init(ggml_backend_buffer_type_t buft,
                                                        ggml_backend_buffer_calls calls, void * context, size_t size);
// True for ops whose result may need more memory than ggml_nbytes() (MUL_MAT, FLASH_ATTN_EXT, ARGSORT, …).
GGML_API bool ggml_op_alloc_size_may_expand(ggml_op op);
}
