// Nodes that check_op accepts do not make a CPU kernel leave its tensors.
#include "server/ops/op_check.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <functional>
#include <string>

#include "base/formatted.h"
#include "platform/pages.h"
#include "server/graph/host_memory.h"
#include "support/cpu_device.h"
#include "support/op_nodes.h"

namespace caravan::server {
namespace {

using test::accepts;
using test::lay_across;
using test::resize;
using test::text_of;

using OpKernels = test::OpNodes;

// Zeroed memory with an inaccessible page directly behind or before it. Never freed.
void * fenced(size_t size, bool behind) {
    const size_t pages = whole_pages(size);
    auto * begin = static_cast<std::byte *>(
        ::mmap(nullptr, pages + 2 * page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + page_size();
    ::mprotect(begin, pages, PROT_READ | PROT_WRITE);
    return begin + (behind ? pages - size : 0);
}

// Computes the node on the CPU, with all tensors in fenced memory.
void compute(ggml_tensor & node, bool fence_behind) {
    for (ggml_tensor * source : node.src) {
        if (source != nullptr && source != &node) {
            source->op = GGML_OP_NONE;
            source->view_src = nullptr;
            const bool is_overread = node.op == GGML_OP_ROPE || node.op == GGML_OP_ROPE_BACK;
            source->data = fenced(ggml_nbytes(source) + (is_overread ? overread_bytes : 0), fence_behind);
        }
    }
    node.data = fenced(ggml_nbytes(&node), fence_behind);
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = ggml_graph_overhead(), .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    ggml_cgraph * graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, &node);
    test::cpu_devices().compute(0, graph);
}

// A change of a node that check_op accepts.
struct Accepted {
    std::string what;
    std::function<void(ggml_tensor & result, ggml_tensor * sources)> change;
    bool fence_behind;
};

// Computes all cases in a child process, and continues in another one after a case that ends it by an assertion of ggml.
void compute_in_children(const ggml_tensor & node, const std::vector<Accepted> & cases) {
    auto & at = *static_cast<volatile size_t *>(
        ::mmap(nullptr, page_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (size_t begin = 0; begin < cases.size(); begin = at + 1) {
        at = begin;
        const auto outcome = test::ask_in_child([&] {
            ggml_set_abort_callback([](const char *) { ::_exit(0); });
            for (; at < cases.size(); at = at + 1) {
                ::alarm(10);
                accepts(node, [&](ggml_tensor & copy, ggml_tensor * sources) {
                    cases[at].change(copy, sources);
                    compute(copy, cases[at].fence_behind);
                });
            }
            return true;
        });
        EXPECT_EQ(outcome, test::Outcome::yes) << text_of(node) << ", " << (at < cases.size() ? cases[at].what : "the last");
    }
    ::munmap(const_cast<size_t *>(&at), page_size());
}

TEST_F(OpKernels, AcceptedNodesStayWithinTheirTensors) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the kernels are not instrumented";
#endif
    test::cpu_devices();
    size_t tried = 0;
    for (const ggml_tensor * node : valid()) {
        std::vector<Accepted> cases;
        const auto add = [&](std::string_view what, const std::function<void(ggml_tensor & source)> & change) {
            for (int s = -1; s < GGML_MAX_SRC && (s < 0 || node->src[s] != nullptr); ++s) {
                const auto spoil = [=](ggml_tensor & result, ggml_tensor * sources) { change(s < 0 ? result : sources[s]); };
                if ((s >= 0 && node->src[s] == node) || !accepts(*node, spoil)) {
                    continue;
                }
                for (const bool fence_behind : {false, true}) {
                    cases.push_back({formatted("source {} {}, fence {}", s, what, fence_behind ? "behind" : "before"), spoil,
                                     fence_behind});
                }
            }
        };
        add("as it is", [](ggml_tensor &) {});
        add("with columns for rows", lay_across);
        add("with one row", [](ggml_tensor & source) { source.nb[1] = source.nb[2] = source.nb[3] = 0; });
        for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
            add(formatted("smaller in {}", dim), [=](ggml_tensor & source) { resize(source, dim, -1); });
            add(formatted("larger in {}", dim), [=](ggml_tensor & source) { resize(source, dim, 1); });
        }
        compute_in_children(*node, cases);
        tried += cases.size();
    }
    EXPECT_GT(tried, 3000u);
}

}  // namespace
}  // namespace caravan::server
