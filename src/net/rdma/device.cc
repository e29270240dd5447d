#include "net/rdma/device.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/config.h"
#include "base/formatted.h"
#include "net/rdma/verbs.h"

namespace caravan::net::rdma {
namespace {

bool is_usable(const Gid & gid) {
    const bool is_zero = std::ranges::all_of(gid, [](uint8_t byte) { return byte == 0; });
    return !is_zero && !platform::is_link_local(gid);
}

std::vector<GidEntry> gids_of(ibv_context * context, uint8_t port) {
    constexpr size_t most = 1024;
    std::vector<ibv_gid_entry> table(most);
    const ssize_t count = verbs().query_gid_table(context, table.data(), table.size(), 0, sizeof table[0]);
    std::vector<GidEntry> out;
    for (ssize_t i = 0; i < count; ++i) {
        const ibv_gid_entry & entry = table[static_cast<size_t>(i)];
        if (entry.port_num != port || entry.gid_index > UINT8_MAX) {  // an address vector holds 8 bits of index
            continue;
        }
        GidEntry found;
        std::memcpy(found.gid.data(), entry.gid.raw, found.gid.size());
        found.index = entry.gid_index;
        found.type = entry.gid_type == IBV_GID_TYPE_ROCE_V2   ? GidEntry::Type::roce_v2
                     : entry.gid_type == IBV_GID_TYPE_ROCE_V1 ? GidEntry::Type::roce_v1
                                                              : GidEntry::Type::infiniband;
        out.push_back(found);
    }
    return out;
}

std::optional<uint32_t> env_index(const Variable & variable) {
    const int64_t value = env_integer(variable);
    return value < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(value));
}

// The port's GID that meets the criteria, or the reason why there is none.
Result<GidEntry> gid_on(const PortFacts & port, const Criteria & criteria) {
    if (criteria.gid) {
        const auto forced = std::ranges::find(port.gids, *criteria.gid, &GidEntry::index);
        if (forced == port.gids.end()) {
            return fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_GID={} is not in the GID table of {} port {}",
                        *criteria.gid, port.device, port.port);
        }
        return *forced;
    }
    if (!criteria.local_address) {
        return fail(Errc::unsupported, "the connection has no IP address");
    }
    const GidEntry * best = nullptr;
    std::string others;
    for (const GidEntry & entry : port.gids) {
        if (entry.gid == *criteria.local_address && (best == nullptr || entry.type > best->type)) {
            best = &entry;
        } else if (is_usable(entry.gid)) {
            others += formatted("{}{}", others.empty() ? "" : ", ", text_of(entry.gid));
        }
    }
    if (best == nullptr && port.is_infiniband && !port.gids.empty()) {
        return port.gids.front();  // addressed by LID: the GID need not match the address
    }
    if (best == nullptr) {
        return fail(Errc::not_found, Reason::no_rdma_gid, "no GID for {} on {}: found {}", text_of(*criteria.local_address),
                    port.device, others.empty() ? "none" : others);
    }
    return *best;
}

}  // namespace

std::vector<PortFacts> scan_ports() {
    std::vector<PortFacts> ports;
    if (!load_verbs()) {
        return ports;
    }
    int count = 0;
    const std::unique_ptr<ibv_device *, void (*)(ibv_device **)> list(verbs().get_device_list(&count),
                                                                      verbs().free_device_list);
    for (int i = 0; list != nullptr && i < count; ++i) {
        const std::unique_ptr<ibv_context, int (*)(ibv_context *)> context(verbs().open_device(list.get()[i]),
                                                                           verbs().close_device);
        ibv_device_attr device{};
        if (context == nullptr || verbs().query_device(context.get(), &device) != 0) {
            continue;
        }
        for (uint8_t number = 1; number <= device.phys_port_cnt; ++number) {
            ibv_port_attr attributes{};
            if (verbs().query_port(context.get(), number, reinterpret_cast<_compat_ibv_port_attr *>(&attributes)) != 0) {
                continue;
            }
            PortFacts port;
            port.device = verbs().get_device_name(list.get()[i]);
            port.port = number;
            port.is_active = attributes.state == IBV_PORT_ACTIVE;
            port.is_infiniband = attributes.link_layer == IBV_LINK_LAYER_INFINIBAND;
            port.lid = attributes.lid;
            port.mtu = 128u << attributes.active_mtu;
            port.gids = gids_of(context.get(), number);
            ports.push_back(std::move(port));
        }
    }
    return ports;
}

std::string why_none_is_active(const std::vector<PortFacts> & ports) {
    if (ports.empty()) {
        return "no RDMA device";
    }
    return std::ranges::any_of(ports, &PortFacts::is_active)
               ? ""
               : formatted("{} port {} is not active", ports.front().device, ports.front().port);
}

Criteria criteria_from_environment(SocketHandle socket) {
    Criteria criteria;
    if (const std::string_view device = text_of(variable::rdma_device); !device.empty()) {
        criteria.device = device;
    }
    criteria.gid = env_index(variable::rdma_gid);
    criteria.port = env_index(variable::rdma_port);
    if (const auto address = platform::local_address(socket)) {
        criteria.local_address = address->ip();
    }
    return criteria;
}

Result<Choice> choose(const std::vector<PortFacts> & ports, const Criteria & criteria) {
    if (ports.empty()) {
        return fail(Errc::not_found, Reason::no_rdma_device, "no RDMA device");
    }
    std::optional<Error> first;
    bool saw_device = false;
    for (const PortFacts & port : ports) {
        if (criteria.device && port.device != *criteria.device) {
            continue;
        }
        saw_device = true;
        if (criteria.port && port.port != *criteria.port) {
            continue;
        }
        auto gid = port.is_active ? gid_on(port, criteria)
                                  : fail(Errc::unavailable, Reason::rdma_port_inactive, "{} port {} is not active", port.device,
                                         port.port);
        if (gid) {
            return Choice{port.device, port.port, port.is_infiniband, port.lid, port.mtu, *gid};
        }
        if (!first) {
            first = std::move(gid.error());
        }
    }
    if (!saw_device) {
        std::string names;
        for (const PortFacts & port : ports) {
            names += formatted("{}{}", names.empty() ? "" : ", ", port.device);
        }
        return fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_DEV={} is not among the RDMA devices: {}",
                    *criteria.device, names);
    }
    return first ? std::unexpected(std::move(*first))
                 : fail(Errc::not_found, Reason::rdma_setting, "GGML_RDMA_PORT={} does not exist", criteria.port.value_or(0));
}

std::string text_of(const Gid & gid) { return platform::text_of(gid); }

}  // namespace caravan::net::rdma
