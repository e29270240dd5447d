// ggml graphs over fake remote buffers, as a client sees them: tensors have addresses but no memory.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "abi/ggml_abi.h"

namespace caravan::test {

class GraphKit {
public:
    GraphKit() : context_(ggml_init({.mem_size = 4 << 20, .mem_buffer = nullptr, .no_alloc = true}), ggml_free) {}

    ggml_context * context() { return context_.get(); }

    // Only the addresses of the buffers are used.
    ggml_backend_buffer_t ours() { return &ours_; }
    ggml_backend_buffer_t foreign() { return &foreign_; }
    static constexpr uint64_t handle = 0x1'0000'0000'0000;

    // The handle of a buffer, as the client's encoding asks for it.
    auto handle_of() {
        return [this](ggml_backend_buffer_t buffer) { return buffer == &ours_ ? handle : uint64_t{0}; };
    }

    ggml_tensor * f32(int64_t ne0, int64_t ne1 = 1) { return place(ggml_new_tensor_2d(context(), GGML_TYPE_F32, ne0, ne1)); }

    // Places the tensor at the next free address of our buffer.
    ggml_tensor * place(ggml_tensor * tensor) {
        tensor->buffer = &ours_;
        tensor->data = reinterpret_cast<void *>(next_);
        next_ += ggml_nbytes(tensor) + 64;
        return tensor;
    }

    ggml_cgraph * graph(std::initializer_list<ggml_tensor *> results, uint64_t uid) {
        ggml_cgraph * graph = ggml_new_graph_custom(context(), 64, false);
        for (ggml_tensor * result : results) {
            ggml_build_forward_expand(graph, result);
        }
        graph->uid = uid;
        return graph;
    }

private:
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context_;
    ggml_backend_buffer ours_{}, foreign_{};
    uint64_t next_ = handle;
};

}  // namespace caravan::test
