// Measures latency and bandwidth of one open connection, in the stock dialect, which every server supports.
#pragma once

#include <memory>
#include <string>

#include "doctor/conversation.h"

namespace caravan::doctor {

struct Measured {
    net::TransportKind transport = net::TransportKind::tcp;
    uint32_t devices = 0;   // offered by the server
    uint64_t device_free = 0, device_total = 0;  // bytes, of the first one
    uint32_t round_trips = 0;
    double median_us = 0, p99_us = 0;              // of a small query
    double to_server = 0, from_server = 0;         // bytes per second; 0: not measured
    std::string failure;                           // why it ended early; "" if it did not
    Errc failure_code{};                           // of `failure`
    uint32_t queue_pairs = 0;                      // of RDMA
};

// Takes about 2 s if the peer replies, and never more than `limits.total`. Uses up to 64 MiB of the first device meanwhile.
Measured measure(std::unique_ptr<net::Transport> transport, const Limits & limits);

}  // namespace caravan::doctor
