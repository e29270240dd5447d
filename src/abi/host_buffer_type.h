// A buffer type in the layout of the ggml that uses it. `api`: host_api_version(), except in tests.
#pragma once

#include "abi/abi_check.h"
#include "abi/ggml_abi.h"

namespace caravan::abi {

class HostBufferType {
public:
    // `type` in the newest layout. Calls that an older ggml lacks are dropped.
    explicit HostBufferType(const ggml_backend_buffer_type & type, int api = host_api_version()) {
        if (api >= backend_api_version) {
            newest_ = type;
        } else {
            api_2_ = {.calls = {.get_name = type.calls.get_name,
                                .alloc_buffer = type.calls.alloc_buffer,
                                .get_alignment = type.calls.get_alignment,
                                .get_max_size = type.calls.get_max_size,
                                .get_alloc_size = type.calls.get_alloc_size,
                                .is_host = type.calls.is_host},
                      .device = type.device,
                      .context = type.context};
        }
    }

    // Valid while this object lives.
    ggml_backend_buffer_type_t get() { return &newest_; }

private:
    union {
        ggml_backend_buffer_type newest_;
        api_2::BufferType api_2_;
    };
};

// Of a HostBufferType. The name's function is the first call in all layouts.
inline void * context_of(ggml_backend_buffer_type_t type, int api = host_api_version()) {
    return api >= backend_api_version ? type->context : reinterpret_cast<const api_2::BufferType *>(type)->context;
}

}  // namespace caravan::abi
