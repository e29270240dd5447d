// Graphs that a session has left to later workers: decoded, placed, checked and built, as by a spare worker, and encoded again.
#include "device.h"
#include "kit.h"
#include "server/graph/warm_up.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(false);
    const auto graphs = server::decode_warm_graphs(fuzz::input_bytes(data, size));
    std::vector<server::GraphView> views;
    static server::WarmUp warm_up(fuzz::cpu());
    for (const server::WarmGraph & graph : graphs) {
        (void)warm_up.compute(graph);
        views.push_back({graph.device, graph.tensors});
    }
    const auto again = server::encode_warm_graphs(views, size);
    fuzz::require(again.size() <= size, "the limit holds");
    fuzz::require(server::decode_warm_graphs(again).size() <= graphs.size(), "encoding adds no graphs");
    return 0;
}
