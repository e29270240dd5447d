// RDMA devices of this machine, and the choice of device, port and GID for a connection.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "platform/address.h"

namespace caravan::net::rdma {

using Gid = platform::IpAddress;

struct GidEntry {
    enum class Type { infiniband, roce_v1, roce_v2 };
    Gid gid{};
    uint32_t index = 0;
    Type type = Type::infiniband;
};

struct PortFacts {
    std::string device;
    uint8_t port = 1;
    bool is_active = false;
    bool is_infiniband = false;  // link layer; peers are addressed by LID
    uint16_t lid = 0;
    uint32_t mtu = 0;  // active, bytes
    std::vector<GidEntry> gids;
};

// All ports of all devices, in any state. Empty without a device, driver or libibverbs.
std::vector<PortFacts> scan_ports();

// The reason why no port can be used ("no RDMA device", "mlx5_0 port 1 is not active"), or "". Pure.
std::string why_none_is_active(const std::vector<PortFacts> & ports);

// The user's and the connection's requirements on the port and GID.
struct Criteria {
    std::optional<std::string> device;  // GGML_RDMA_DEV
    std::optional<uint32_t> gid;        // GGML_RDMA_GID
    std::optional<uint32_t> port;       // GGML_RDMA_PORT
    std::optional<Gid> local_address;   // of the TCP socket; IPv4 as ::ffff:a.b.c.d
};
Criteria criteria_from_environment(SocketHandle socket);

struct Choice {
    std::string device;
    uint8_t port = 1;
    bool is_infiniband = false;
    uint16_t lid = 0;
    uint32_t mtu = 0;
    GidEntry gid;
};

// Selects the first active port that has a GID equal to the socket's address, preferring RoCEv2 to v1. A GID index set by
// the user is used without further checks. The error is the first reason why no port fits, worded for the log. Pure.
Result<Choice> choose(const std::vector<PortFacts> & ports, const Criteria & criteria);

// "10.0.0.2" for an IPv4-mapped GID, else IPv6 notation.
std::string text_of(const Gid & gid);

}  // namespace caravan::net::rdma
