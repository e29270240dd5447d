// Measures how long servers need to add up a tensor among themselves (all-reduce), as -sm tensor does twice for each layer.
// The servers compute nothing. Each sum is checked on every server.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bench/rounds.h"
#include "net/endpoint.h"
#include "wire/native.h"

namespace caravan::bench {

struct ReductionSamples {
    uint64_t bytes = 0;  // of the tensor
    std::optional<wire::Algorithm> algorithm;
    // By round, rank and sum, at least one of each: microseconds from the arrival of the command at that server until it has
    // the sum.
    std::vector<std::vector<std::vector<double>>> us;
};

struct ReductionBench {
    uint32_t rounds = 5;
    seconds silence{10};                 // limit of a period without a reply
    std::vector<std::string> endpoints;  // set by run(), as all below
    std::string transports;              // between the servers: "tcp", "shared memory and rdma"; "" without a group
    std::string failure;                 // why it ended early; "" if it did not
    std::vector<ReductionSamples> sizes;

    bool any_failed() const { return !failure.empty(); }
};

// Needs two native servers or more, and up to 17 MiB of each server's first device. Keeps the results before a failure.
void run(ReductionBench & bench, const std::vector<net::Endpoint> & endpoints, const Progress & progress);

// Numbers for `rank` in the sum `number`, small integers, so that the sum over all ranks is exact in every order.
void fill_terms(std::span<float> out, size_t rank, uint32_t number);
// The position of the first element that is not the sum of fill_terms() over all ranks.
std::optional<size_t> find_wrong_sum(std::span<const float> sums, size_t n_ranks, uint32_t number);

}  // namespace caravan::bench
