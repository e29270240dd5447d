#include "doctor/adding_servers.h"

#include "base/formatted.h"

namespace caravan::doctor {

using client::Connection;

Result<AddingServers> open_adding_servers(const std::vector<net::Endpoint> & endpoints, uint64_t bytes, seconds silence) {
    const client::ConnectionOptions options{.connect_timeout = seconds(5), .reply_timeout = silence};
    AddingServers out;
    std::vector<std::shared_ptr<Connection>> members;
    for (const net::Endpoint & endpoint : endpoints) {
        auto connection = Connection::open(endpoint, Connection::Purpose::session, options);
        if (!connection) {
            return fail(connection.error().code, "{}: {}", endpoint.text(), connection.error().text);
        }
        if (!(*connection)->is_native()) {
            return fail(Errc::unsupported, "{}: its server is a stock one", endpoint.text());
        }
        auto buffer = (*connection)->buffers().alloc(0, bytes);
        if (!buffer) {
            return fail(buffer.error().code, "{}: {}", endpoint.text(), buffer.error().text);
        }
        (*connection)->buffers().clear(*buffer, 0);
        members.push_back(*connection);
        out.ranks.push_back({std::move(*connection), *buffer});
    }
    auto group = client::ServerGroup::of(members);
    if (!group) {
        return std::unexpected(group.error());
    }
    out.group = std::move(*group);
    return out;
}

client::Reductions::Term row_of_floats(const client::RemoteBuffer & buffer, uint64_t offset, uint64_t size) {
    constexpr uint32_t type_f32 = 0;
    wire::Region region;
    region.type = type_f32;
    region.ne[0] = size / sizeof(float);
    region.ne[1] = region.ne[2] = region.ne[3] = 1;
    region.nb[0] = sizeof(float);
    region.nb[1] = region.nb[2] = region.nb[3] = size;
    region.buffer = buffer.handle;
    region.address = buffer.base + offset;
    return {region, {region.address, region.address + size}, false};
}

}  // namespace caravan::doctor
