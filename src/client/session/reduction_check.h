// GGML_RPC_CHECK_REDUCE=1: reads each sum from all servers, and fails the computation if they differ.
//
// The client compares the bytes themselves, so the servers need no part in it. Every sum is awaited: this is for finding
// faults.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "client/session/connection.h"

namespace caravan::client {

struct HeldSum {
    size_t rank;
    std::string server;
    std::vector<float> values;
};
// Describes the first difference, bit by bit, between the first sum and another one. All have the same size.
std::optional<std::string> difference_of(std::string_view tensor, std::span<const HeldSum> sums);

// Waits for the sum. `terms`: for each member. Logs a difference, and the next launch on every member fails with it. Does
// nothing if the sum has failed.
void check_reduction(std::string_view tensor, const std::vector<std::shared_ptr<Connection>> & members,
                     const std::vector<std::vector<Reductions::Term>> & terms);

}  // namespace caravan::client
