// RDMA devices of this machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
    std::string why_closed;  // why the device cannot be opened, and then nothing else is known; else ""
    uint8_t port = 1;
    bool is_active = false;
    bool is_infiniband = false;  // link layer; peers are addressed by LID
    uint16_t lid = 0;
    uint32_t mtu = 0;  // active, bytes
    uint32_t rate = 0;  // active, Mbit/s; 0: unknown
    bool requires_grh = false;  // IBV_QPF_GRH_REQUIRED
    uint16_t pkeys = 1;         // entries in the table of partition keys
    std::vector<GidEntry> gids;
};

// All ports of all devices, in any state, and one entry for each device that this process cannot open. Empty without a
// device, driver or libibverbs.
std::vector<PortFacts> scan_ports();

// The reason why no port can be used ("no RDMA device", "mlx5_0 port 1 is not active"), or "". Pure.
std::string why_none_is_active(const std::vector<PortFacts> & ports);

// Why a device with `why_closed` cannot be used. Pure.
std::string closed_text(const PortFacts & port);

// "10.0.0.2" for an IPv4-mapped GID, else IPv6 notation.
std::string text_of(const Gid & gid);

}  // namespace caravan::net::rdma
