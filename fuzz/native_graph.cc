// Graph differences: decoded, encoded again, checked, built. The input is a graph (u32 number of tensors, u32 size of the
// difference, difference to the empty graph) and another one (u32 number of tensors, difference to the first).
#include "device.h"
#include "kit.h"
#include "server/graph/graph_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(false);
    static server::BufferTable buffers;
    static const auto buffer = buffers.allocate(fuzz::cpu().buffer_type(0), 0, 1 << 20);
    fuzz::require(buffer.has_value(), "a buffer can be allocated");
    ConstBytes input = fuzz::input_bytes(data, size);
    const auto n_base = fuzz::take_number<uint32_t>(input);
    const auto base_size = fuzz::take_number<uint32_t>(input);
    const ConstBytes base_bytes = input.first(std::min<size_t>(base_size, input.size()));
    input = input.subspan(base_bytes.size());
    const auto n_tensors = fuzz::take_number<uint32_t>(input);
    const auto base = wire::decode_difference({}, n_base, base_bytes);
    if (!base) {
        return 0;
    }
    const auto tensors = wire::decode_difference(*base, n_tensors, input);
    if (!tensors) {
        return 0;
    }
    fuzz::require(tensors->size() == n_tensors, "the graph has the announced number of tensors");
    std::vector<std::byte> difference;
    wire::encode_difference(*base, *tensors, difference);
    const auto again = wire::decode_difference(*base, n_tensors, difference);
    fuzz::require(again && std::ranges::equal(std::as_bytes(std::span(*again)), std::as_bytes(std::span(*tensors))),
                  "encoding and decoding returns the same tensors");
    const auto description = server::describe_graph(*tensors);
    (void)server::build_graph(description, fuzz::cpu().device(0), buffers);
    (void)server::supported_nodes(description, fuzz::cpu().device(0));
    return 0;
}
