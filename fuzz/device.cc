#include "device.h"

#include <algorithm>
#include <csetjmp>

#include "abi/ggml_abi.h"
#include "kit.h"

namespace caravan::fuzz {
namespace {

constexpr size_t max_buffer = 1 << 20;
constexpr size_t max_run = 8 << 20;
constexpr double max_work = 1 << 26;  // pairs of elements, in all graphs of one run

size_t allocated = 0;
double worked = 0;
bool computing = false;
std::jmp_buf after_assertion;

// An upper bound for any op: the number of pairs of an element of the result and one of the largest source.
double work_of(const ggml_tensor & node) {
    const auto elements = [](const ggml_tensor & tensor) {
        double product = 1;
        for (const int64_t ne : tensor.ne) {
            product *= static_cast<double>(ne);
        }
        return product + 1;
    };
    double largest = 1;
    for (const ggml_tensor * source : node.src) {
        largest = source == nullptr ? largest : std::max(largest, elements(*source));
    }
    return elements(node) * largest;
}

}  // namespace

server::Devices & cpu() {
    static server::Devices devices = [] {
        ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        ggml_set_abort_callback([](const char *) { std::longjmp(after_assertion, 1); });
        auto opened = server::Devices::open({"CPU"}, 1);
        require(opened.has_value(), "ggml has a CPU device");
        return std::move(*opened);
    }();
    return devices;
}

void begin_run(bool computes) {
    allocated = 0;
    worked = 0;
    computing = computes;
}

extern "C" {

ggml_backend_buffer_t __real_ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t type, size_t size);
ggml_backend_buffer_t __real_ggml_backend_cpu_buffer_from_ptr(void * memory, size_t size);
ggml_status __real_ggml_backend_graph_compute_async(ggml_backend_t backend, ggml_cgraph * graph);

size_t __wrap_ggml_backend_buft_get_max_size(ggml_backend_buffer_type_t) { return max_buffer; }

ggml_backend_buffer_t __wrap_ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    allocated += size;
    return allocated > max_run ? nullptr : __real_ggml_backend_buft_alloc_buffer(type, size);
}

ggml_backend_buffer_t __wrap_ggml_backend_cpu_buffer_from_ptr(void * memory, size_t size) {
    allocated += size;
    return allocated > max_run ? nullptr : __real_ggml_backend_cpu_buffer_from_ptr(memory, size);
}

ggml_status __wrap_ggml_backend_graph_compute_async(ggml_backend_t backend, ggml_cgraph * graph) {
    if (!computing) {
        return GGML_STATUS_SUCCESS;
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        worked += work_of(*ggml_graph_node(graph, i));
    }
    if (worked > max_work || setjmp(after_assertion) != 0) {
        return GGML_STATUS_FAILED;
    }
    return __real_ggml_backend_graph_compute_async(backend, graph);
}

}  // extern "C"

}  // namespace caravan::fuzz

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    caravan::fuzz::cpu();
    return 0;
}
