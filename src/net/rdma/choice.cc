#include "net/rdma/choice.h"

#include <algorithm>

#include "base/config.h"
#include "base/formatted.h"
#include "net/networks.h"
#include "wire/extension.h"

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

Choice choice_of(const PortFacts & port, const GidEntry & gid, const Criteria & criteria) {
    return {port.device, port.port, port.is_infiniband,      port.requires_grh, port.lid,
            port.mtu,    port.rate, criteria.pkey_index, gid};
}

// The ports for queue pairs after the first: Ethernet only, because addresses do not tell which InfiniBand ports reach each
// other. The slowest of several delays what overtakes it, so unless the user asks for it, all have the same rate.
std::vector<const PortFacts *> further_ports(const std::vector<PortFacts> & ports, const Criteria & criteria,
                                             const Choice & first) {
    auto out = admitted(ports, criteria).value_or(std::vector<const PortFacts *>());
    std::erase_if(out, [&](const PortFacts * port) {
        return criteria.gid || first.is_infiniband || port->is_infiniband || !port->is_active ||
               criteria.pkey_index >= port->pkeys || (!criteria.rails && port->rate != first.rate);
    });
    return out;
}

// The length of the network's prefix; nothing if the GID is not one of `addresses`, or link-local.
std::optional<int> prefix_of(const Gid & gid, std::span<const platform::InterfaceAddress> addresses) {
    const auto found = std::ranges::find(addresses, gid, &platform::InterfaceAddress::address);
    return found != addresses.end() && is_usable(gid) ? std::optional(found->prefix) : std::nullopt;
}

}  // namespace

Criteria criteria_from_environment(SocketHandle socket) {
    Criteria criteria;
    if (const std::string_view device = text_of(variable::rdma_device); !device.empty()) {
        criteria.device = device;
    }
    criteria.gid = env_index(variable::rdma_gid);
    criteria.port = env_index(variable::rdma_port);
    criteria.rails = env_index(variable::rdma_rails);
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
    return choice_of(port, *found->gid, criteria);
}

std::vector<Choice> choose_rails(const std::vector<PortFacts> & ports, const Criteria & criteria, const Choice & first,
                                 std::span<const platform::InterfaceAddress> addresses) {
    const size_t most = criteria.rails.value_or(wire::max_rails);
    std::vector<Choice> out{first};
    for (const PortFacts * port : further_ports(ports, criteria, first)) {
        const GidEntry * best = nullptr;
        for (const GidEntry & entry : port->gids) {
            const auto rank = [&](const GidEntry & gid) {
                return std::pair(gid.type, platform::is_ipv4(gid.gid) == platform::is_ipv4(first.gid.gid));
            };
            if (prefix_of(entry.gid, addresses) && (best == nullptr || rank(entry) > rank(*best))) {
                best = &entry;
            }
        }
        if (best != nullptr && out.size() < most && !std::ranges::contains(out, port->device, &Choice::device)) {
            out.push_back(choice_of(*port, *best, criteria));
        }
    }
    for (size_t i = 0; criteria.rails && out.size() < most; ++i) {
        out.push_back(Choice(out[i]));
    }
    return out;
}

std::optional<Choice> choose_for(const Gid & peer, const Gid & first_peer, const std::vector<PortFacts> & ports,
                                 const Criteria & criteria, std::span<const Choice> chosen,
                                 std::span<const platform::InterfaceAddress> addresses) {
    if (chosen.size() >= criteria.rails.value_or(wire::max_rails)) {
        return std::nullopt;
    }
    std::optional<Choice> best;
    const auto users = [&](const std::string & device) { return std::ranges::count(chosen, device, &Choice::device); };
    const auto consider = [&](Choice choice) {
        const auto count = users(choice.device);
        if ((count == 0 || criteria.rails) && (!best || count < users(best->device))) {
            best = std::move(choice);
        }
    };
    for (const PortFacts * port : further_ports(ports, criteria, chosen.front())) {
        const GidEntry * found = nullptr;
        for (const GidEntry & entry : port->gids) {
            const auto prefix = prefix_of(entry.gid, addresses);
            const bool reaches = prefix && is_usable(peer) && platform::is_ipv4(entry.gid) == platform::is_ipv4(peer) &&
                                 masked(entry.gid, *prefix) == masked(peer, *prefix);
            if (reaches && (found == nullptr || entry.type > found->type)) {
                found = &entry;
            }
        }
        if (found != nullptr) {
            consider(choice_of(*port, *found, criteria));
        }
    }
    if (peer == first_peer) {
        consider(chosen.front());
    }
    return best;
}

}  // namespace caravan::net::rdma
