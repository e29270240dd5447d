// Prints the nodes that ggml's constructors make, at least one of each op: type, shape, flags, parameters, sources. To compare
// two versions of ggml, run it with each libggml-base.so.0 (LD_LIBRARY_PATH) and compare the outputs. A version that lacks a
// constructor ends it with the name of that function.
#include <cstdio>

#include "support/op_nodes.h"

namespace {

const char * name_of(const ggml_tensor & node) {
    return node.op == GGML_OP_UNARY ? ggml_unary_op_name(ggml_get_unary_op(&node))
           : node.op == GGML_OP_GLU ? ggml_glu_op_name(ggml_get_glu_op(&node))
                                    : ggml_op_name(node.op);
}

struct Dump : caravan::test::OpNodes {
    void TestBody() override {
        for (const ggml_tensor * node : valid()) {
            std::printf("%s %s flags %d view %d", name_of(*node), ggml_type_name(node->type), node->flags,
                        node->view_src != nullptr);
            for (int i = 0; i < GGML_MAX_DIMS; ++i) {
                std::printf(" %lld:%zu", static_cast<long long>(node->ne[i]), node->nb[i]);
            }
            for (const int32_t parameter : node->op_params) {
                std::printf(" %x", static_cast<unsigned>(parameter));
            }
            for (int i = 0; i < GGML_MAX_SRC; ++i) {
                if (const ggml_tensor * source = node->src[i]; source != nullptr) {
                    std::printf(" src%d %s %lldx%lld", i, ggml_type_name(source->type), static_cast<long long>(source->ne[0]),
                                static_cast<long long>(source->ne[1]));
                }
            }
            std::printf("\n");
        }
    }
};

}  // namespace

int main() {
    Dump().TestBody();
    std::fprintf(stderr, "ggml %s\n", ggml_version());
}
