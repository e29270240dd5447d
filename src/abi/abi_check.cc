#include "abi/abi_check.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string_view>

#include "abi/ggml_abi.h"
#include "abi/op_names.h"

namespace caravan::abi {
namespace {

// "0.27.0-1" -> "0.27": the ABI is stable within a minor version.
std::string_view minor_version(std::string_view version) {
    const size_t first = version.find('.');
    const size_t second = first == version.npos ? first : version.find('.', first + 1);
    return version.substr(0, second);
}

// Versions whose layouts and ops were compared with those of the one that Caravan was built for (docs/compatibility.md).
struct Version {
    std::string_view minor;
    int api;
    std::span<const ggml_op> other_ops{};
};
constexpr ggml_op not_in_0_23[] = {GGML_OP_DSV4_HC_COMB, GGML_OP_DSV4_HC_PRE, GGML_OP_DSV4_HC_POST};
constexpr Version known_versions[] = {{"0.23", 2, not_in_0_23}, {"0.25", 2}, {"0.27", 3}};
constexpr std::string_view compared_with = "0.27";

Version host{.minor = compared_with, .api = backend_api_version};

constexpr size_t hash_of(const ggml_tensor * tensor) { return reinterpret_cast<uintptr_t>(tensor) >> 4; }

bool is_used(const ggml_hash_set & set, size_t slot) { return (set.used[slot / 32] >> (slot % 32) & 1) != 0; }

}  // namespace

size_t find_slot(const ggml_hash_set & set, const ggml_tensor * tensor) {
    if (set.size == 0) {
        return SIZE_MAX;
    }
    const size_t start = hash_of(tensor) % set.size;
    for (size_t step = 0; step < set.size; ++step) {
        const size_t slot = (start + step) % set.size;
        if (!is_used(set, slot)) {
            return SIZE_MAX;
        }
        if (set.keys[slot] == tensor) {
            return slot;
        }
    }
    return SIZE_MAX;
}

size_t insert_slot(ggml_hash_set & set, ggml_tensor * tensor) {
    if (set.size == 0) {
        return SIZE_MAX;
    }
    const size_t start = hash_of(tensor) % set.size;
    for (size_t step = 0; step < set.size; ++step) {
        const size_t slot = (start + step) % set.size;
        if (!is_used(set, slot)) {
            set.used[slot / 32] |= 1u << (slot % 32);
            set.keys[slot] = tensor;
            return slot;
        }
        if (set.keys[slot] == tensor) {
            return slot;
        }
    }
    return SIZE_MAX;
}

namespace {

constexpr size_t object_size = 32;  // of what precedes each tensor in a context

Result<> check_graph() {
    if (const size_t size = ggml_tensor_overhead() - object_size; size != sizeof(ggml_tensor)) {
        return fail(Errc::unsupported, "the tensors of this program's ggml {} have {} bytes, not {}: was it built with another "
                                       "GGML_MAX_NAME than {}?",
                    ggml_version(), size, sizeof(ggml_tensor), GGML_MAX_NAME);
    }
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = 64 * 1024, .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    if (context == nullptr) {
        return fail(Errc::no_memory, "cannot create a ggml context");
    }
    ggml_tensor * a = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 4);
    ggml_tensor * sum = ggml_add(context.get(), a, a);
    ggml_cgraph * graph = ggml_new_graph_custom(context.get(), 8, false);
    ggml_build_forward_expand(graph, sum);
    const size_t slot = find_slot(graph->visited, a);
    const bool as_declared = graph->size == ggml_graph_size(graph) && graph->n_nodes == ggml_graph_n_nodes(graph) &&
                             graph->n_nodes == 1 && graph->n_leafs == 1 && graph->nodes[0] == sum &&
                             graph->leafs[0] == a && slot != SIZE_MAX && graph->use_counts[slot] == 2 &&
                             (sum->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
    if (!as_declared) {
        return fail(Errc::unsupported, "the graph layout of ggml {} is not the one that Caravan was built for", ggml_version());
    }
    return {};
}

template <class Op, class NameOf>
bool has_names(std::span<const std::string_view> names, Op count, NameOf name_of) {
    for (size_t i = 0; i < names.size(); ++i) {
        if (i >= static_cast<size_t>(count) || names[i] != name_of(static_cast<Op>(i))) {
            return false;
        }
    }
    return true;
}

}  // namespace

Result<> check() {
    const std::string_view running = ggml_version();
    if (minor_version(running) != minor_version(CARAVAN_GGML_VERSION)) {
        return fail(Errc::unsupported, "built for ggml {}, but this program has ggml {}: rebuild Caravan against it",
                    CARAVAN_GGML_VERSION, running);
    }
    return check_graph();
}

Result<> check_host() {
    const std::string_view running = ggml_version();
    const auto known = std::ranges::find(known_versions, minor_version(running), &Version::minor);
    if (minor_version(CARAVAN_GGML_VERSION) != compared_with || known == std::end(known_versions)) {
        return check();
    }
    if (!has_names(op_names, GGML_OP_COUNT, ggml_op_name) ||
        !has_names(unary_op_names, GGML_UNARY_OP_COUNT, ggml_unary_op_name) ||
        !has_names(glu_op_names, GGML_GLU_OP_COUNT, ggml_glu_op_name)) {
        return fail(Errc::unsupported, "built for ggml {}, but this program has ggml {}, which numbers its ops differently",
                    CARAVAN_GGML_VERSION, running);
    }
    if (auto fits = check_graph(); !fits) {
        return fits;
    }
    host = *known;
    return {};
}

int host_api_version() { return host.api; }

bool is_same_op(ggml_op op) { return !std::ranges::contains(host.other_ops, op); }

}  // namespace caravan::abi
