// The graphs of a session, reduced to what a later worker process must compute to have the same kernels ready (warm_up.h).
//
// They hold shapes, types, ops and parameters of ops: no names, no addresses and no data. A worker writes them and a worker
// reads them; the reader trusts nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "wire/native.h"

namespace caravan::server {

struct WarmGraph {
    uint32_t device = 0;
    std::vector<wire::GraphTensor> tensors;
};

// A graph that belongs to a session.
struct GraphView {
    uint32_t device = 0;
    std::span<const wire::GraphTensor> tensors;
};

// Encodes graphs in at most `limit` bytes, those with least work first. Leaves out nodes whose neighbourhood has occurred
// before, so of a model's layers about two remain, and tensors that no other node uses.
std::vector<std::byte> encode_warm_graphs(const std::vector<GraphView> & graphs, size_t limit);
// The inverse. Stops at the first graph that is malformed.
std::vector<WarmGraph> decode_warm_graphs(ConstBytes bytes);

// A hash of all that encode_warm_graphs() encodes of the graph.
uint64_t hash_of(const WarmGraph & graph);
// Roughly the number of multiplications.
double work_of(const WarmGraph & graph);

}  // namespace caravan::server
