// Measures the network path to a server: round trips and bandwidth by message size, over TCP and, if both peers have it, RDMA,
// in the stock dialect. The server computes nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "bench/rounds.h"
#include "net/endpoint.h"
#include "net/transport.h"

namespace caravan::bench {

struct SizeSamples {
    uint64_t bytes = 0;
    // One vector for each round. A round trip writes `bytes` into the server's memory and reads the same back, in one batch.
    std::vector<std::vector<double>> round_trips_us;
    // Bytes per second of payload, one for each round.
    std::vector<double> to_server, from_server;
};

struct Link {
    std::string endpoint;
    std::optional<net::TransportKind> transport;  // empty if there is no connection
    std::string why_not_rdma;  // "" if it is RDMA, if another link uses RDMA, or if RDMA was not requested
    std::string failure;       // why it ended early, without the endpoint; "" if it did not
    std::string advice;        // what the user can do; may be empty
    std::vector<SizeSamples> sizes;

    std::string_view transport_text() const { return transport ? text_of(*transport) : ""; }
};

struct LinkBench {
    uint32_t rounds = 5;
    milliseconds time{100};  // of each measurement: a round has three of each size, on each link
    seconds silence{10};     // limit of a period without progress
    std::vector<Link> links;  // set by run()

    bool any_failed() const;
};

// Measures one endpoint after the other; its links take turns at each size. GGML_RPC_TRANSPORT selects the links. A failed
// link keeps its results.
void run(LinkBench & bench, const std::vector<net::Endpoint> & endpoints, const Progress & progress);

}  // namespace caravan::bench
