// Latency and bandwidth of one open connection, in the stock dialect: works with any server.
#pragma once

#include <memory>
#include <string>

#include "doctor/conversation.h"

namespace caravan::doctor {

struct Measured {
    std::string transport;  // "tcp", "unix", "rdma"
    uint32_t devices = 0;   // that the server offers
    uint64_t device_free = 0, device_total = 0;  // bytes, of the first one
    uint32_t round_trips = 0;
    double median_us = 0, p99_us = 0;              // of a small question
    double to_server = 0, from_server = 0;         // bytes per second; 0: not measured
    std::string failure;                           // why it ended early
};

// Needs about 2 s of a peer that answers, and never more than `whole`. Takes up to 64 MiB of the first device meanwhile.
Measured measure(std::unique_ptr<net::Transport> transport, const Patience & patience);

}  // namespace caravan::doctor
