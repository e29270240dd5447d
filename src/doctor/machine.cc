#include "doctor/machine.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <string_view>

#include "base/config.h"
#include "net/hello.h"
#include "platform/machine.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/device.h"
#include "net/rdma/queue_pair.h"
#endif

namespace caravan::doctor {
namespace {

namespace fs = std::filesystem;

constexpr std::array rdma_modules{"ib_core", "ib_uverbs", "ib_umad",    "ib_ipoib", "rdma_cm",      "rdma_ucm",   "mlx4_ib",
                                  "mlx5_ib", "irdma",     "bnxt_re",    "qedr",     "iw_cxgb4",     "ionic_rdma", "mana_ib",
                                  "efa",     "erdma",     "hns_roce_hw_v2", "hfi1", "ocrdma",       "vmw_pvrdma", "rdma_rxe",
                                  "siw",     "nvidia_peermem"};
constexpr std::array settings{variable::transport,          variable::rdma_device, variable::rdma_gid,
                              variable::rdma_port,          variable::rdma_traffic_class, variable::rdma_timeout,
                              variable::rdma_retry,         variable::rdma_rails,  variable::poll,
                              variable::connect_timeout};

// The first line of the file; "" if it cannot be read. sysfs has files that exist and cannot be read.
std::string first_line(const fs::path & path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// Sorted by name; empty if there is no such directory.
std::vector<fs::path> entries(const fs::path & folder) {
    std::vector<fs::path> out;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        out.push_back(it->path());
    }
    std::ranges::sort(out);
    return out;
}

#ifdef GGML_RPC_RDMA

static_assert(size_t{net::rdma::Geometry{}.slot_size} * net::rdma::Geometry{}.depth * 2 == locked_by_session);

std::string type_name(net::rdma::GidEntry::Type type) {
    using Type = net::rdma::GidEntry::Type;
    return type == Type::roce_v2 ? "RoCEv2" : type == Type::roce_v1 ? "RoCEv1" : "IB";
}

// Adds the facts that libibverbs reports to those from sysfs.
void open_ports(std::vector<Port> & ports) {
    for (const net::rdma::PortFacts & facts : net::rdma::scan_ports()) {
        if (!facts.why_closed.empty()) {
            continue;
        }
        auto known = std::ranges::find_if(ports, [&](const Port & port) {
            return port.device == facts.device && port.port == facts.port;
        });
        if (known == ports.end()) {  // no sysfs here
            known = ports.insert(ports.end(), Port{.device = facts.device, .port = facts.port});
        }
        known->is_open = true;
        known->state = facts.is_active ? "ACTIVE" : known->state.empty() ? "not active" : known->state;
        known->mtu = facts.mtu;
        const fs::path interfaces = fs::path("/sys/class/infiniband") / facts.device / "ports" /
                                    std::to_string(facts.port) / "gid_attrs/ndevs";
        for (const net::rdma::GidEntry & entry : facts.gids) {
            known->gids.push_back({entry.index, type_name(entry.type), net::rdma::text_of(entry.gid),
                                   first_line(interfaces / std::to_string(entry.index))});
        }
    }
}

#endif

}  // namespace

bool Machine::asks_for_rdma() const {
    return transport_mode == TransportMode::rdma ||
           (transport_mode != TransportMode::tcp &&
            std::ranges::any_of(settings, [](const auto & setting) { return setting.first.starts_with("GGML_RDMA_"); }));
}

std::vector<Port> ports_in(const fs::path & root) {
    std::vector<Port> out;
    for (const fs::path & device : entries(root / "sys/class/infiniband")) {
        for (const fs::path & folder : entries(device / "ports")) {
            Port port;
            port.device = device.filename();
            const std::string number = folder.filename();
            std::from_chars(number.data(), number.data() + number.size(), port.port);
            const std::string state = first_line(folder / "state");  // "4: ACTIVE"
            port.state = state.substr(state.find(": ") == state.npos ? 0 : state.find(": ") + 2);
            port.link_layer = first_line(folder / "link_layer");
            port.rate = first_line(folder / "rate");
            out.push_back(std::move(port));
        }
    }
    return out;
}

std::vector<std::string> rdma_modules_in(const fs::path & root) {
    std::vector<std::string> out;
    std::ifstream file(root / "proc/modules");
    for (std::string line; std::getline(file, line);) {
        std::string name = line.substr(0, line.find(' '));
        if (std::ranges::contains(rdma_modules, std::string_view(name))) {
            out.push_back(std::move(name));
        }
    }
    std::ranges::sort(out);
    return out;
}

bool may_lock_all_in(const fs::path & root) {
    constexpr int cap_ipc_lock = 14;
    constexpr std::string_view key = "CapEff:\t";
    std::ifstream file(root / "proc/self/status");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(key)) {
            uint64_t capabilities = 0;
            std::from_chars(line.data() + key.size(), line.data() + line.size(), capabilities, 16);
            return (capabilities >> cap_ipc_lock & 1) != 0;
        }
    }
    return false;
}

Machine examine_machine() {
    Machine machine;
    machine.host = platform::host_name();
    machine.kernel = platform::kernel_version();
    machine.built_with_rdma = net::built_with_rdma;
    machine.why_no_verbs = net::built_with_rdma ? net::why_no_rdma() : "";
    machine.ports = ports_in("/");
#ifdef GGML_RPC_RDMA
    open_ports(machine.ports);
#endif
    machine.modules = rdma_modules_in("/");
    machine.has_verbs = fs::exists("/sys/class/infiniband_verbs") || std::ranges::contains(machine.modules, "ib_uverbs");
    machine.may_lock_all = may_lock_all_in("/");
    machine.memlock = platform::locked_memory_limit();
    for (const Variable & setting : settings) {
        if (const std::string_view value = text_of(setting); !value.empty()) {
            machine.settings.emplace_back(setting.name, value);
        }
    }
    machine.transport_mode = transport_mode();
    return machine;
}

}  // namespace caravan::doctor
