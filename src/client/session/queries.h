// Queries of one server, over a session or a connection for queries.
//
// Each blocks until the reply arrives. They fail with the connection's error, or with Errc::protocol if the reply is out of
// bounds (reply_check.h). Threads: any.
#pragma once

#include <span>
#include <vector>

#include "client/session/command_queue.h"
#include "wire/extension.h"

namespace caravan::client {

// Properties of a device that never change.
struct DeviceConstants {
    uint64_t alignment = 0;
    uint64_t max_size = 0;
    wire::DeviceFactsReply facts{};  // native servers only
};

struct DeviceMemory {
    uint64_t free = 0;
    uint64_t total = 0;
};

class Queries {
public:
    explicit Queries(CommandQueue & queue) : queue_(queue) {}

    Result<uint32_t> device_count();
    // Of the first `count` devices. Only the front door replies to this, so call it before any session command.
    Result<std::vector<DeviceConstants>> constants(uint32_t count);
    Result<DeviceMemory> memory(uint32_t device);
    // Sends all requests in one batch.
    Result<std::vector<uint64_t>> alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests);
    // Sessions of native servers only. `tensors` is the concatenation of one or more encode_op_query(). Returns 1 (supported)
    // or 0 for each node, or an empty vector if the server refuses the query.
    Result<std::vector<uint8_t>> supports(uint32_t device, std::span<const wire::GraphTensor> tensors);
    // Native servers only. The server's clock, in ns; from now on the server records spans.
    Result<uint64_t> start_spans();
    // Sessions of native servers only. The recorded spans, oldest first. `since`: what start_spans() returned, `age` ago.
    Result<std::vector<wire::Span>> take_spans(uint64_t since, std::chrono::nanoseconds age);

private:
    Result<> with_endpoint(Result<> sound) const;

    CommandQueue & queue_;
};

}  // namespace caravan::client
