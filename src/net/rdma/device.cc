#include "net/rdma/device.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/formatted.h"
#include "net/rdma/verbs.h"

namespace caravan::net::rdma {
namespace {

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

// As the header's macro ibv_query_port, which does not link: the library's function of this name leaves the newer members,
// such as `flags`, zero.
int query_port(ibv_context * context, uint8_t port, ibv_port_attr & attributes) {
    const verbs_context * extended = verbs_get_ctx_op(context, query_port);
    return extended != nullptr
               ? extended->query_port(context, port, &attributes, sizeof attributes)
               : verbs().query_port(context, port, reinterpret_cast<_compat_ibv_port_attr *>(&attributes));
}

// The codes of the InfiniBand specification, which RoCE uses too.
uint32_t rate_of(const ibv_port_attr & port) {
    constexpr uint32_t lane_mbits[] = {2500, 5000, 10000, 10000, 14000, 25000, 50000, 100000};  // by the bit of active_speed
    constexpr uint32_t lanes[] = {1, 4, 8, 12, 2};                                               // of active_width
    const auto speed = static_cast<size_t>(std::countr_zero(port.active_speed));
    const auto width = static_cast<size_t>(std::countr_zero(port.active_width));
    return speed < std::size(lane_mbits) && width < std::size(lanes) ? lane_mbits[speed] * lanes[width] : 0;
}

// Why a device could not be opened. (libibverbs looks for its file elsewhere after a failure, so errno does not tell.)
std::string why_closed(const ibv_device & device) {
    const std::string file = formatted("/dev/infiniband/{}", device.dev_name);
    return std::fstream(file) ? "libibverbs cannot use it" : "no access to " + file;
}

// Devices that the kernel has, but of which libibverbs lists none: their files in /dev are missing.
std::vector<PortFacts> devices_without_files() {
    std::vector<PortFacts> out;
    std::error_code failure;
    for (const auto & entry : std::filesystem::directory_iterator("/sys/class/infiniband", failure)) {
        out.push_back({.device = entry.path().filename(), .why_closed = "its file in /dev/infiniband is missing", .gids = {}});
    }
    return out;
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
    if (count == 0) {
        return devices_without_files();
    }
    for (int i = 0; list != nullptr && i < count; ++i) {
        const std::unique_ptr<ibv_context, int (*)(ibv_context *)> context(verbs().open_device(list.get()[i]),
                                                                           verbs().close_device);
        if (context == nullptr) {
            ports.push_back({.device = verbs().get_device_name(list.get()[i]),
                             .why_closed = why_closed(*list.get()[i]),
                             .gids = {}});
            continue;
        }
        ibv_device_attr device{};
        if (verbs().query_device(context.get(), &device) != 0) {
            continue;
        }
        for (uint8_t number = 1; number <= device.phys_port_cnt; ++number) {
            ibv_port_attr attributes{};
            if (query_port(context.get(), number, attributes) != 0) {
                continue;
            }
            PortFacts port;
            port.device = verbs().get_device_name(list.get()[i]);
            port.port = number;
            port.is_active = attributes.state == IBV_PORT_ACTIVE;
            port.is_infiniband = attributes.link_layer == IBV_LINK_LAYER_INFINIBAND;
            port.lid = attributes.lid;
            port.mtu = 128u << attributes.active_mtu;
            port.rate = rate_of(attributes);
            port.requires_grh = (attributes.flags & IBV_QPF_GRH_REQUIRED) != 0;
            port.pkeys = attributes.pkey_tbl_len;
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
    if (!ports.front().why_closed.empty() && !std::ranges::any_of(ports, &PortFacts::is_active)) {
        return closed_text(ports.front());
    }
    return std::ranges::any_of(ports, &PortFacts::is_active)
               ? ""
               : formatted("{} port {} is not active", ports.front().device, ports.front().port);
}

std::string closed_text(const PortFacts & port) {
    return formatted("cannot open RDMA device {}: {}", port.device, port.why_closed);
}

std::string text_of(const Gid & gid) { return platform::text_of(gid); }

}  // namespace caravan::net::rdma
