// Servers that form a group to add up tensors, without a model: a session with each, and a buffer on its first device.
#pragma once

#include <memory>
#include <vector>

#include "client/session/server_group.h"
#include "net/endpoint.h"

namespace caravan::doctor {

struct AddingServers {
    struct Rank {
        std::shared_ptr<client::Connection> connection;
        client::RemoteBuffer buffer;  // zeros
    };
    std::vector<Rank> ranks;
    std::shared_ptr<client::ServerGroup> group;
};

// `bytes`: of each buffer. `silence`: limit of a period without a reply. Fails if a server is a stock one, or the group cannot
// be formed.
Result<AddingServers> open_adding_servers(const std::vector<net::Endpoint> & endpoints, uint64_t bytes, seconds silence);

// A row of floats in a buffer. Offset and size in bytes.
client::Reductions::Term row_of_floats(const client::RemoteBuffer & buffer, uint64_t offset, uint64_t size);

}  // namespace caravan::doctor
