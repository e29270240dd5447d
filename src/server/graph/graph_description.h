// A graph as a client describes it, decoded from the messages of either dialect. graph_builder.h checks it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/native.h"

namespace caravan::server {

// `nodes`: the positions of the computed tensors, in the order of computation.
struct GraphDescription {
    std::vector<wire::GraphTensor> tensors;
    std::vector<uint32_t> nodes;
};
// Decodes the payload of GRAPH_COMPUTE (stock dialect). Errc::protocol or Errc::invalid_argument.
Result<GraphDescription> describe_stock_graph(ConstBytes payload);
// For a graph of the native dialect.
GraphDescription describe_graph(std::vector<wire::GraphTensor> tensors);

}  // namespace caravan::server
