#include "server/ops/op_check.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "abi/moves_no_data.h"
#include "base/formatted.h"
#include "ggml-backend.h"
#include "server/ops/op_table.h"

namespace caravan::server {
namespace {

// True for types that ggml has dot products for: all but those of intermediate results.
bool multiplies(ggml_type type) {
    const bool is_real = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    return is_real || (ggml_is_quantized(type) && type != GGML_TYPE_Q8_1 && type != GGML_TYPE_Q8_K);
}

bool is_of(char kind, ggml_type type, const ggml_tensor & node) {
    switch (kind) {
        case '*': return true;
        case '=': return type == node.src[0]->type;
        case '1': return type == node.src[1]->type;
        case '2': return type == node.src[2]->type;
        case 'f': return type == GGML_TYPE_F32;
        case 'e': return type == GGML_TYPE_F16;
        case 'h': return type == GGML_TYPE_F32 || type == GGML_TYPE_F16;
        case 'b': return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
        case 'i': return type == GGML_TYPE_I32;
        case 'j': return type == GGML_TYPE_I32 || type == GGML_TYPE_I64;
        case 'l': return type == GGML_TYPE_I64;
        case 'd': return multiplies(type);
    }
    std::unreachable();
}

std::string shape_text(const ggml_tensor & tensor) {
    return formatted("{}[{},{},{},{}]", ggml_type_name(tensor.type), tensor.ne[0], tensor.ne[1], tensor.ne[2],
                     tensor.ne[3]);
}

// An error with the violation and the shapes of the node and its sources.
Error explain(std::string_view violation, const ggml_tensor & node) {
    std::string text = formatted("{}: {}", violation, shape_text(node));
    for (const char * between = " from "; const ggml_tensor * src : node.src) {
        if (src != nullptr) {
            text += between + shape_text(*src);
            between = ", ";
        }
    }
    return {Errc::invalid_argument, std::move(text)};
}

// Graphs of real models have a few. Checking more would not stop a hostile client, which can compute its indices.
constexpr size_t max_fixed_indices = 64;

bool in_host_memory(const ggml_tensor & tensor) {
    return tensor.buffer != nullptr && ggml_backend_buffer_is_host(tensor.buffer);
}

struct Span {
    const std::byte * begin;
    const std::byte * end;
};
Span span_of(const ggml_tensor & tensor) {
    const auto begin = static_cast<const std::byte *>(tensor.data);
    return {begin, begin + ggml_nbytes(&tensor)};
}

template <class Number>
bool all_below(const ggml_tensor & tensor, int64_t limit) {
    const size_t stride = tensor.nb[0];
    const auto base = static_cast<const std::byte *>(tensor.data);
    for (int64_t i3 = 0; i3 < tensor.ne[3]; ++i3) {
        for (int64_t i2 = 0; i2 < tensor.ne[2]; ++i2) {
            for (int64_t i1 = 0; i1 < tensor.ne[1]; ++i1) {
                const std::byte * row = base + i3 * tensor.nb[3] + i2 * tensor.nb[2] + i1 * tensor.nb[1];
                bool bad = false;
                for (int64_t i0 = 0; i0 < tensor.ne[0]; ++i0) {
                    Number value;
                    std::memcpy(&value, row + i0 * stride, sizeof value);
                    bad |= value < 0 || value >= limit;
                }
                if (bad) {
                    return false;
                }
            }
        }
    }
    return true;
}

}  // namespace

Result<> check_op_table() {
    for (uint32_t op = 0; op < GGML_OP_COUNT; ++op) {
        const OpRow * row = row_of(op);
        const std::string_view name = ggml_op_name(static_cast<ggml_op>(op));
        if (row != nullptr && name != row->name) {
            return fail(Errc::unsupported, "op {} is {} in the loaded ggml but {} in the ggml of this build", op, name,
                        row->name);
        }
    }
    return {};
}

bool is_served(uint32_t op) { return row_of(op) != nullptr; }

Result<> check_op(const ggml_tensor & node, bool for_cpu) {
    const OpRow * row = row_of(node.op);
    if (row == nullptr) {
        return fail(Errc::unsupported, "no check exists for this op");
    }
    const auto types = std::string_view(row->types);
    for (int s = 0; s < row->required; ++s) {
        if (node.src[s] == nullptr) {
            return fail(Errc::invalid_argument, "its source {} is missing", s);
        }
    }
    for (size_t s = 0; s < types.size(); ++s) {
        if (node.src[s] != nullptr && !is_of(types[s], node.src[s]->type, node)) {
            return std::unexpected(explain(formatted("its source {} has an unsupported type", s), node));
        }
    }
    if (!is_of(row->result, node.type, node)) {
        return std::unexpected(explain("its result has the wrong type", node));
    }
    if (row->is_new && !ggml_is_contiguous(&node)) {
        return std::unexpected(explain("its result is not contiguous", node));
    }
    for (const auto & check : {row->relation, for_cpu ? row->cpu : nullptr}) {
        if (const Violation violation = check == nullptr ? nullptr : check(node)) {
            return std::unexpected(explain(violation, node));
        }
    }
    return {};
}

std::optional<Indices> indices_of(const ggml_tensor & node) {
    switch (node.op) {
        case GGML_OP_GET_ROWS: return Indices{node.src[1], node.src[0]->ne[1]};
        case GGML_OP_GET_ROWS_BACK:
        case GGML_OP_SET_ROWS: return Indices{node.src[1], node.ne[1]};
        case GGML_OP_MUL_MAT_ID: return Indices{node.src[2], node.src[0]->ne[2]};
        case GGML_OP_ADD_ID: return Indices{node.src[2], node.src[1]->ne[1]};
        case GGML_OP_SSM_SCAN: return Indices{node.src[6], node.src[0]->ne[3]};
        default: return std::nullopt;
    }
}

std::vector<Indices> fixed_indices(std::span<ggml_tensor * const> nodes) {
    std::vector<Indices> out;
    for (const ggml_tensor * node : nodes) {
        const auto indices = indices_of(*node);
        if (indices && out.size() < max_fixed_indices && in_host_memory(*indices->tensor) &&
            std::ranges::find(out, *indices) == out.end()) {
            out.push_back(*indices);
        }
    }
    // An index that overlaps a result may be overwritten by the graph.
    std::erase_if(out, [&](const Indices & indices) {
        const Span mine = span_of(*indices.tensor);
        return std::ranges::any_of(nodes, [&](const ggml_tensor * node) {
            const Span result = span_of(*node);
            return !abi::moves_no_data(node->op) && result.begin < mine.end && mine.begin < result.end;
        });
    });
    return out;
}

Result<> check_indices(std::span<const Indices> indices) {
    for (const auto & [tensor, limit] : indices) {
        const bool good = tensor->type == GGML_TYPE_I64 ? all_below<int64_t>(*tensor, limit)
                                                        : all_below<int32_t>(*tensor, limit);
        if (!good) {
            return fail(Errc::invalid_argument, "tensor \"{}\" has row numbers out of range: there are {} rows",
                        tensor->name, limit);
        }
    }
    return {};
}

}  // namespace caravan::server
