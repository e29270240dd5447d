#include "wire/native.h"

#include <array>

#include "wire/reduction_spans.h"

namespace caravan::wire {
namespace {

constexpr size_t words = sizeof(GraphTensor) / sizeof(uint64_t);
using Words = std::array<uint64_t, words>;
static_assert(words <= 64);

Words words_of(const GraphTensor & tensor) { return std::bit_cast<Words>(tensor); }

template <class T>
void put(std::vector<std::byte> & out, const T & value) {
    const auto bytes = const_bytes(&value, sizeof value);
    out.insert(out.end(), bytes.begin(), bytes.end());
}

constexpr uint64_t max_difference = 64 << 20;
constexpr uint64_t max_endpoint = 1024;

struct Entry {
    NativeCommand command;
    const char * name;
    PayloadBounds bounds;
};
template <class Request>
constexpr Entry exact(NativeCommand command, const char * name) {
    return {command, name, {sizeof(Request), sizeof(Request)}};
}
constexpr Entry table[] = {
    exact<DeclareRequest>(NativeCommand::declare, "DECLARE"),
    {NativeCommand::write, "WRITE", {sizeof(WriteRequest), any_size}},
    exact<ReadRequest>(NativeCommand::read, "READ"),
    exact<FillRequest>(NativeCommand::fill, "FILL"),
    exact<CopyRequest>(NativeCommand::copy, "COPY"),
    {NativeCommand::graph, "GRAPH", {sizeof(GraphRequest), max_difference}},
    exact<LaunchRequest>(NativeCommand::launch, "LAUNCH"),
    {NativeCommand::supports, "SUPPORTS", {sizeof(SupportsRequest), max_difference}},
    exact<FindRequest>(NativeCommand::find, "FIND"),
    {NativeCommand::invite, "INVITE", {0, 0}},
    {NativeCommand::connect, "CONNECT", {sizeof(ConnectRequest), sizeof(ConnectRequest) + max_endpoint}},
    exact<PushRequest>(NativeCommand::push, "PUSH"),
    exact<TakeRequest>(NativeCommand::take, "TAKE"),
    exact<SlotRequest>(NativeCommand::initialize, "INITIALIZE"),
    {NativeCommand::facts, "FACTS", {0, 0}},
    {NativeCommand::clock, "CLOCK", {0, 0}},
    {NativeCommand::spans, "SPANS", {0, 0}},
    {NativeCommand::group, "GROUP", {sizeof(GroupRequest), sizeof(GroupRequest) + max_ranks * sizeof(GroupPeer)}},
    {NativeCommand::reduce, "REDUCE", {sizeof(ReduceRequest) + sizeof(uint16_t),
                                       sizeof(ReduceRequest) + max_ranks * sizeof(uint16_t)}},
    exact<FindPartRequest>(NativeCommand::find_part, "FIND_PART"),
    exact<AlgorithmRequest>(NativeCommand::algorithm, "ALGORITHM"),
};

static_assert(std::size(table) == n_native_commands);

const Entry * find_entry(NativeCommand command) {
    for (const Entry & entry : table) {
        if (entry.command == command) {
            return &entry;
        }
    }
    return nullptr;
}

}  // namespace

Region::Region(const Tensor & tensor) : type(tensor.type), buffer(tensor.buffer), address(tensor.data) {
    for (int i = 0; i < max_dims; ++i) {
        ne[i] = tensor.ne[i];
        nb[i] = tensor.nb[i];
    }
}

void encode_difference(std::span<const GraphTensor> base, std::span<const GraphTensor> tensors,
                       std::vector<std::byte> & out) {
    uint32_t equal = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
        const Words now = words_of(tensors[i]);
        const Words before = i < base.size() ? words_of(base[i]) : Words{};
        if (i < base.size() && now == before) {
            ++equal;
            continue;
        }
        uint64_t changed = 0;
        for (size_t w = 0; w < words; ++w) {
            changed |= uint64_t{now[w] != before[w]} << w;
        }
        put(out, equal);
        put(out, changed);
        for (size_t w = 0; w < words; ++w) {
            if (now[w] != before[w]) {
                put(out, now[w]);
            }
        }
        equal = 0;
    }
}

Result<std::vector<GraphTensor>> decode_difference(std::span<const GraphTensor> base, uint32_t n_tensors,
                                                   ConstBytes difference) {
    constexpr size_t head = sizeof(uint32_t) + sizeof(uint64_t);
    if (n_tensors > max_graph_tensors || n_tensors > base.size() + difference.size() / head) {
        return fail(Errc::protocol, "a graph difference of {} bytes to {} tensors cannot describe {} tensors",
                    difference.size(), base.size(), n_tensors);
    }
    std::vector<GraphTensor> out(base.begin(), base.begin() + static_cast<ptrdiff_t>(std::min<size_t>(base.size(), n_tensors)));
    out.resize(n_tensors);
    size_t next = 0;
    while (!difference.empty()) {
        if (difference.size() < head) {
            return fail(Errc::protocol, "a graph difference ends within a tensor");
        }
        next += load<uint32_t>(difference.data());
        const auto changed = load<uint64_t>(difference.data() + sizeof(uint32_t));
        difference = difference.subspan(head);
        const size_t size = static_cast<size_t>(std::popcount(changed)) * sizeof(uint64_t);
        if (next >= n_tensors || changed >> words != 0 || size > difference.size()) {
            return fail(Errc::protocol, "a graph difference does not match its {} tensors", n_tensors);
        }
        Words merged = words_of(out[next]);
        for (size_t w = 0; w < words; ++w) {
            if ((changed >> w & 1) != 0) {
                merged[w] = load<uint64_t>(difference.data());
                difference = difference.subspan(sizeof(uint64_t));
            }
        }
        out[next++] = std::bit_cast<GraphTensor>(merged);
    }
    // Tensors beyond the end of the base must be given.
    if (n_tensors > base.size() && next != n_tensors) {
        return fail(Errc::protocol, "a graph difference gives {} of {} tensors", next, n_tensors);
    }
    return out;
}

const char * command_name(NativeCommand command) {
    const Entry * entry = find_entry(command);
    return entry == nullptr ? "unknown command" : entry->name;
}

const char * span_name(uint8_t what) {
    if (what >= first_computing) {
        return "COMPUTE";
    }
    switch (static_cast<ReductionSpan>(what)) {
        case ReductionSpan::wait: return "REDUCE wait";
        case ReductionSpan::transfer: return "REDUCE wire";
        case ReductionSpan::add: return "REDUCE add";
    }
    const auto command = static_cast<Command>(what);
    return is_native(command) ? command_name(static_cast<NativeCommand>(what)) : command_name(command);
}

PayloadBounds payload_bounds(NativeCommand command) {
    const Entry * entry = find_entry(command);
    return entry == nullptr ? PayloadBounds{1, 0} : entry->bounds;
}

const char * text_of(Algorithm algorithm) {
    switch (algorithm) {
        case Algorithm::direct: return "direct";
        case Algorithm::doubling: return "doubling";
        case Algorithm::scatter: return "scatter";
    }
    return "";
}

}  // namespace caravan::wire
