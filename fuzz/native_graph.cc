// Graphs by difference: decoded, coded again, checked, built. The input is a graph, u32 tensors, u32 size, difference to
// nothing, and another one, u32 tensors, difference to the first.
#include "device.h"
#include "kit.h"
#include "server/graph_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(false);
    static server::BufferTable buffers;
    static const auto buffer = buffers.allocate(fuzz::cpu().buffer_type(0), 0, 1 << 20);
    fuzz::require(buffer.has_value(), "there is a buffer");
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
    fuzz::require(tensors->size() == n_tensors, "as many tensors as promised");
    std::vector<std::byte> difference;
    wire::encode_difference(*base, *tensors, difference);
    const auto again = wire::decode_difference(*base, n_tensors, difference);
    fuzz::require(again && std::ranges::equal(std::as_bytes(std::span(*again)), std::as_bytes(std::span(*tensors))),
                  "what is coded again is the same");
    const auto description = server::describe_graph(*tensors);
    (void)server::build_graph(description, fuzz::cpu().device(0), buffers);
    (void)server::supported_nodes(description, fuzz::cpu().device(0));
    return 0;
}
