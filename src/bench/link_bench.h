// The way to a server by itself: round trips and bandwidth by the size of a message, over TCP and over RDMA where both
// ends have it, in the stock dialect. Nothing is computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bench/rounds.h"
#include "net/endpoint.h"

namespace caravan::bench {

struct SizeSamples {
    uint64_t bytes = 0;
    // By round. A round trip writes `bytes` into the server's memory and reads the same back, in one batch.
    std::vector<std::vector<double>> round_trips_us;
    // Bytes per second, without headers; one for each round.
    std::vector<double> to_server, from_server;
};

struct Link {
    std::string endpoint;
    std::string transport;     // "tcp", "unix", "rdma"; "" if there is no connection
    std::string why_not_rdma;  // "" if it is RDMA, or if there is one over RDMA too, or if nobody wanted it
    std::string failure;       // why it ended early, without the endpoint
    std::string advice;        // what the user can do about it, if anything
    std::vector<SizeSamples> sizes;
};

struct LinkBench {
    uint32_t rounds = 5;
    milliseconds time{100};  // of each measurement: a round has three of each size, on each link
    seconds silence{10};     // how long a server may make no progress at all
    std::vector<Link> links;  // filled in by run

    bool any_failed() const;
};

// One endpoint after the other; the links to one take turns at each size. GGML_RPC_TRANSPORT says which there are.
void run(LinkBench & bench, const std::vector<net::Endpoint> & endpoints, const Say & say);

}  // namespace caravan::bench
