// Measures how long several servers need to add up a tensor among themselves, as -sm tensor does twice for each layer.
#pragma once

#include <string>
#include <vector>

#include "doctor/conversation.h"
#include "net/endpoint.h"

namespace caravan::doctor {

struct SumTime {
    uint64_t bytes = 0;  // of the tensor
    double us = 0;       // median
};

struct AllReduceFacts {
    std::vector<std::string> endpoints;
    std::string failure;            // why there are no times, or not all; "" if there are
    std::string transports;         // of the links between the servers
    std::vector<SumTime> sums;      // by size
};

// Needs two native servers or more. Takes a second or two, and 4 MiB of each server's first device.
AllReduceFacts measure_all_reduce(const std::vector<net::Endpoint> & endpoints, const Limits & limits);

// How much faster the servers generate with -sm tensor than the first alone, if that one needs `token_us` for a token and the
// others are like it. `sum_us`: of one sum for one token.
double predicted_speed(size_t servers, double token_us, int layers, double sum_us);
// By interpolation between the measured sizes.
double time_of_sum(const std::vector<SumTime> & sums, uint64_t bytes);

// The part of a token's work that every server repeats: norms, rotary embeddings, output.
inline constexpr double repeated_part = 0.05;

}  // namespace caravan::doctor
