#include "net/rdma/choice.h"

#include <algorithm>

#include "base/config.h"
#include "base/formatted.h"

namespace caravan::net::rdma {
namespace {

std::optional<uint32_t> env_index(const Variable & variable) {
    const int64_t value = env_integer(variable);
    return value < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(value));
}

bool is_usable(const Gid & gid) {
    const bool is_zero = std::ranges::all_of(gid, [](uint8_t byte) { return byte == 0; });
    return !is_zero && !platform::is_link_local(gid);
}

// The port cannot be used.
std::unexpected<Error> inactive(const PortFacts & port) {
    if (!port.why_closed.empty()) {
        return fail(Errc::unavailable, Reason::rdma_device_closed, "{}", closed_text(port));
    }
    return fail(Errc::unavailable, Reason::rdma_port_inactive, "{} port {} is not active", port.device, port.port);
}

// The port's GID with that address, RoCEv2 before RoCEv1; null if it has none.
const GidEntry * gid_of(const PortFacts & port, const Gid & address) {
    const GidEntry * best = nullptr;
    for (const GidEntry & entry : port.gids) {
        if (entry.gid == address && (best == nullptr || entry.type > best->type)) {
            best = &entry;
        }
    }
    return best;
}

std::unexpected<Error> without_address(const PortFacts & port, const Gid & address) {
    std::string others;
    for (const GidEntry & entry : port.gids) {
        if (is_usable(entry.gid)) {
            others += formatted("{}{}", others.empty() ? "" : ", ", text_of(entry.gid));
        }
    }
    return fail(Errc::not_found, Reason::no_rdma_gid, "no GID for {} on {}: found {}", text_of(address), port.device,
                others.empty() ? "none" : others);
}

// Ports that the user's settings admit.
Result<std::vector<const PortFacts *>> admitted(const std::vector<PortFacts> & ports, const Criteria & criteria) {
    if (ports.empty()) {
        return fail(Errc::not_found, Reason::no_rdma_device, "no RDMA device");
    }
    std::vector<const PortFacts *> out;
    bool has_device = false;
    std::string names;
    for (const PortFacts & port : ports) {
        const bool is_device = !criteria.device || port.device == *criteria.device;
        has_device |= is_device;
        if (is_device && (!criteria.port || port.port == *criteria.port)) {
            out.push_back(&port);
        }
        names += formatted("{}{}", names.empty() ? "" : ", ", port.device);
    }
    if (!has_device) {
        return fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_DEV={} is not among the RDMA devices: {}",
                    *criteria.device, names);
    }
    if (out.empty()) {
        return fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_PORT={} does not exist", criteria.port.value_or(0));
    }
    return out;
}

struct Candidate {
    const PortFacts * port = nullptr;
    const GidEntry * gid = nullptr;
};

Result<Candidate> with_gid_index(const std::vector<const PortFacts *> & ports, uint32_t index) {
    std::optional<Error> first;
    for (const PortFacts * port : ports) {
        const auto entry = std::ranges::find(port->gids, index, &GidEntry::index);
        if (port->is_active && entry != port->gids.end()) {
            return Candidate{port, &*entry};
        }
        if (!first) {
            first = port->is_active ? fail(Errc::not_found, Reason::rdma_setting,
                                           "GGML_RDMA_GID={} is not in the GID table of {} port {}", index, port->device,
                                           port->port).error()
                                    : inactive(*port).error();
        }
    }
    return std::unexpected(std::move(*first));
}

Result<Candidate> with_address(const std::vector<const PortFacts *> & ports, const Gid & address) {
    Candidate best, infiniband;
    const PortFacts * down = nullptr;  // has the address
    for (const PortFacts * port : ports) {
        const GidEntry * entry = gid_of(*port, address);
        if (!port->is_active) {
            down = down == nullptr && entry != nullptr ? port : down;
        } else if (entry != nullptr && (best.gid == nullptr || entry->type > best.gid->type)) {
            best = {port, entry};
        } else if (port->is_infiniband && infiniband.gid == nullptr && !port->gids.empty()) {
            infiniband = {port, &port->gids.front()};
        }
    }
    if (best.gid != nullptr) {
        return best;
    }
    if (down != nullptr) {
        return inactive(*down);
    }
    if (infiniband.gid != nullptr) {
        return infiniband;
    }
    const PortFacts & first = *ports.front();
    return first.is_active ? without_address(first, address) : inactive(first);
}

}  // namespace

Criteria criteria_from_environment(SocketHandle socket) {
    Criteria criteria;
    if (const std::string_view device = text_of(variable::rdma_device); !device.empty()) {
        criteria.device = device;
    }
    criteria.gid = env_index(variable::rdma_gid);
    criteria.port = env_index(variable::rdma_port);
    criteria.pkey_index = static_cast<uint16_t>(env_integer(variable::rdma_pkey));
    if (const auto address = platform::local_address(socket)) {
        criteria.local_address = address->ip();
    }
    return criteria;
}

Result<Choice> choose(const std::vector<PortFacts> & ports, const Criteria & criteria) {
    const auto among = admitted(ports, criteria);
    if (!among) {
        return std::unexpected(among.error());
    }
    if (!criteria.gid && !criteria.local_address) {
        return fail(Errc::unsupported, "the connection has no IP address");
    }
    const auto found = criteria.gid ? with_gid_index(*among, *criteria.gid) : with_address(*among, *criteria.local_address);
    if (!found) {
        return std::unexpected(found.error());
    }
    const PortFacts & port = *found->port;
    if (criteria.pkey_index >= port.pkeys) {
        return fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_PKEY={} is beyond the {} partition keys of {} port {}",
                    criteria.pkey_index, port.pkeys, port.device, port.port);
    }
    return Choice{port.device, port.port, port.is_infiniband, port.requires_grh, port.lid, port.mtu, criteria.pkey_index,
                  *found->gid};
}

}  // namespace caravan::net::rdma
