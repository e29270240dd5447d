#include "server/session/session_context.h"

#include "tunables/session.h"

namespace caravan::server {

SessionContext::SessionContext(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * cache,
                               Links * links, uint64_t max_memory, MachineMemory * machine)
    : in(transport, already, tunable::client_stall_timeout, net::Polling::of_environment()),
      devices(devices),
      cache(cache),
      links(links),
      machine(machine),
      runs(devices, spans),
      memory(buffers, max_memory),
      replies(transport),
      io(*this),
      lookups(*this, cache) {}

Result<std::vector<std::byte>> SessionContext::read_payload(uint64_t size) {
    std::vector<std::byte> out;
    auto read = in.read_pieces(size, [&](ConstBytes piece) { out.insert(out.end(), piece.begin(), piece.end()); });
    if (!read) {
        return std::unexpected(read.error());
    }
    return out;
}

}  // namespace caravan::server
