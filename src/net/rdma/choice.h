// The choice of device, port and GID for a connection, and the settings of its packets.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "net/rdma/device.h"

namespace caravan::net::rdma {

// The user's and the connection's requirements on the port and GID.
struct Criteria {
    std::optional<std::string> device;  // GGML_RDMA_DEV
    std::optional<uint32_t> gid;        // GGML_RDMA_GID
    std::optional<uint32_t> port;       // GGML_RDMA_PORT
    uint16_t pkey_index = 0;            // GGML_RDMA_PKEY
    std::optional<uint32_t> rails;      // GGML_RDMA_RAILS
    std::optional<Gid> local_address;   // of the TCP socket; IPv4 as ::ffff:a.b.c.d
};
Criteria criteria_from_environment(SocketHandle socket);

struct Choice {
    std::string device;
    uint8_t port = 1;
    bool is_infiniband = false;
    bool requires_grh = false;
    uint16_t lid = 0;
    uint32_t mtu = 0;
    uint32_t rate = 0;
    uint16_t pkey_index = 0;
    GidEntry gid;
};

// Selects among the active ports, in this order:
//   1. the port and GID that the user set (GGML_RDMA_GID), unchecked;
//   2. a GID equal to the socket's address, on any port: RoCEv2 before RoCEv1, then in the order of the ports;
//   3. the first InfiniBand port, whose peers are addressed by LID, unless an Ethernet port has the address but is down.
// The error is the reason why no port fits, worded for the log: that of a port with the address, else that of the first. Pure.
Result<Choice> choose(const std::vector<PortFacts> & ports, const Criteria & criteria);

// The choices for the queue pairs that a client offers, at most wire::max_rails: `first`, and then one active Ethernet port of
// each further device with the same rate and an address of `addresses`, the machine's, as GID. With GGML_RDMA_RAILS exactly
// that many, at any rate, and a port may be chosen several times. GGML_RDMA_GID admits no further port. Pure.
std::vector<Choice> choose_rails(const std::vector<PortFacts> & ports, const Criteria & criteria, const Choice & first,
                                 std::span<const platform::InterfaceAddress> addresses);

// The server's choice for a further queue pair of the client, whose GID is `peer`: a port with a GID in that network, or that
// of the first pair if the client's GID is that of its first pair, `first_peer`. Of several, that of the device with the fewest
// queue pairs in `chosen`, which begins with the first pair's; a device of `chosen` is admitted only by GGML_RDMA_RAILS.
// Nothing if no port fits. Pure.
std::optional<Choice> choose_for(const Gid & peer, const Gid & first_peer, const std::vector<PortFacts> & ports,
                                 const Criteria & criteria, std::span<const Choice> chosen,
                                 std::span<const platform::InterfaceAddress> addresses);

}  // namespace caravan::net::rdma
