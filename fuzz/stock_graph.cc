// Payloads of GRAPH_COMPUTE: decoded, checked, built.
#include "device.h"
#include "kit.h"
#include "server/graph/graph_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(false);
    static server::BufferTable buffers;
    static const auto buffer = buffers.allocate(fuzz::cpu().buffer_type(0), 0, 1 << 20);
    fuzz::require(buffer.has_value(), "a buffer can be allocated");
    const auto description = server::describe_stock_graph(fuzz::input_bytes(data, size));
    if (description) {
        (void)server::build_graph(*description, fuzz::cpu().device(0), buffers);
        const auto supported = server::supported_nodes(*description, fuzz::cpu().device(0));
        fuzz::require(!supported || supported->size() == description->nodes.size(), "each node has a result");
    }
    return 0;
}
