// Computes graphs of an earlier session in a worker process that has no session yet: back-ends of GPUs compile or load a
// kernel when a graph first needs it, and keep it in the process.
//
// The graphs are untrusted, and the process serves another client later. They pass the checks of any graph (graph_builder.h),
// and all of their data is zeros or what they compute from zeros, in one buffer: no client's data. Kernels
// use row numbers without checks, so they must lie in tensors of zeros that the graph only reads. Row numbers that the graph
// computes are replaced by such tensors, and a graph that has others is refused.
#pragma once

#include <vector>

#include "base/error.h"
#include "server/graph/devices.h"
#include "server/graph/warm_graphs.h"

namespace caravan::server {

// Used by one thread. Frees all of its memory when destroyed. The devices themselves are not affected: it computes with
// back-ends of its own.
class WarmUp {
public:
    explicit WarmUp(Devices & devices) : devices_(devices), backends_(devices.count()) {}

    // Computes the graph, except nodes with large tensors. Errc::invalid_argument, Errc::not_found, Errc::unsupported,
    // Errc::unavailable or Errc::no_memory.
    Result<> compute(const WarmGraph & graph);

private:
    Devices & devices_;
    std::vector<Devices::Backend> backends_;  // by device; null: not used yet
};

}  // namespace caravan::server
