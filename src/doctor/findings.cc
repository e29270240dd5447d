#include "doctor/findings.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/counted.h"
#include "base/formatted.h"
#include "base/size_text.h"
#include "net/handshake.h"

namespace caravan::doctor {
namespace {

using Mark = Finding::Mark;
using Stage = EndpointFacts::Stage;

constexpr const char * build_with_rdma =
    "build with -DGGML_RPC_RDMA=ON (needs libibverbs-dev or libibverbs-devel), on both sides";
constexpr const char * soft_roce =
    "without an adapter, to try: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0";

// What the words of the log mean, wherever they were said (docs/rdma.md).
struct Remedy {
    std::string_view said;
    std::string_view advice;
};
constexpr std::array remedies{
    Remedy{"memlock", "raise it: ulimit -l unlimited in the shell, LimitMEMLOCK=infinity in the systemd service, "
                      "--ulimit memlock=-1 for a container"},
    Remedy{"over RDMA", "open UDP port 4791 between the machines, in both directions; the GIDs must be of the same "
                        "network; a GID whose interface is a bridge carries nothing: give the address to the adapter's own "
                        "interface; the switch must carry the MTU"},
    Remedy{"libibverbs", "install libibverbs (Debian: apt install libibverbs1 ibverbs-providers; others: rdma-core)"},
    Remedy{"no RDMA device", "ibv_devices must list one there: install rdma-core, load the adapter's driver"},
    Remedy{"is not active", "the link is down: cable, switch port, ip link set INTERFACE up"},
    Remedy{"no GID for", "name the server by an address of the RDMA interface, or give that interface the address; "
                         "else choose with GGML_RDMA_DEV and GGML_RDMA_GID (the table is above)"},
    Remedy{"GGML_RDMA_", "unset it, or set it to something in the table above"},
};

std::string remedy_for(std::string_view reason) {
    for (const Remedy & remedy : remedies) {
        if (reason.contains(remedy.said)) {
            return std::string(remedy.advice);
        }
    }
    return "the server's log has its side of it; GGML_RPC_DEBUG=1, there and here, logs more";
}

// The mark of what stands in the way of RDMA only.
Mark obstacle(const Machine & machine) { return machine.asks_for_rdma() ? Mark::fix : Mark::note; }

void look_at_port(const Machine & machine, const Port & port, bool other_is_active, Findings & out) {
    const std::string name = formatted("{} port {}", port.device, port.port);
    if (!port.is_active()) {
        out.push_back({other_is_active ? Mark::note : obstacle(machine),
                       formatted("{} is {}", name, port.state.empty() ? "not active" : port.state),
                       port.link_layer == "InfiniBand"
                           ? "check cable and switch; InfiniBand also needs a subnet manager (opensm) in the network"
                           : formatted("check cable and switch; ip link set {} up",
                                       port.gids.empty() || port.gids.front().interface.empty()
                                           ? "INTERFACE (rdma link shows which one)"
                                           : port.gids.front().interface)});
        return;
    }
    if (machine.built_with_rdma && !port.is_open) {
        out.push_back({obstacle(machine), formatted("{} is up, but programs cannot open it", name),
                       "install rdma-core (ibverbs-providers has the adapters' libraries), load ib_uverbs, and check "
                       "that this user may read and write /dev/infiniband/uverbs*"});
        return;
    }
    if (machine.built_with_rdma && port.gids.empty()) {
        out.push_back({obstacle(machine), formatted("{} has no GID", name), "give its interface an IP address"});
        return;
    }
    out.push_back({Mark::well, formatted("{} is up{}{}", name, port.rate.empty() ? "" : ", ", port.rate), ""});
    if (port.is_open && port.mtu < 2048 && port.link_layer == "Ethernet") {
        out.push_back({Mark::note, formatted("{} sends packets of {} bytes", name, port.mtu),
                       "jumbo frames make large transfers cheaper: MTU 4200 or more on the interface, its peer and the "
                       "switch gives 4096"});
    }
}

void look_at_devices(const Machine & machine, Findings & out) {
    if (!machine.why_no_verbs.empty()) {
        out.push_back({obstacle(machine), formatted("{}: everything goes over TCP", machine.why_no_verbs),
                       "for RDMA, install it (Debian: apt install libibverbs1 ibverbs-providers; others: rdma-core)"});
        return;
    }
    if (machine.ports.empty()) {
        out.push_back({obstacle(machine), "no RDMA device: everything goes over TCP",
                       formatted("for RDMA, install rdma-core and load the adapter's driver: mlx5_ib (NVIDIA, Mellanox), "
                                 "bnxt_re (Broadcom), irdma (Intel); {}",
                                 soft_roce)});
        return;
    }
    if (!machine.has_verbs) {
        out.push_back({obstacle(machine), "the kernel offers its RDMA devices to no program", "sudo modprobe ib_uverbs"});
    }
    const bool any_active = std::ranges::any_of(machine.ports, &Port::is_active);
    for (const Port & port : machine.ports) {
        look_at_port(machine, port, any_active, out);
    }
}

void look_at_memlock(const Machine & machine, Findings & out) {
    if (machine.ports.empty() && !machine.asks_for_rdma()) {
        return;  // only RDMA locks memory
    }
    if (machine.may_lock_all || !machine.memlock) {
        out.push_back({Mark::well, "no limit on locked memory", ""});
    } else if (*machine.memlock < locked_by_session) {
        out.push_back({obstacle(machine),
                       formatted("memlock limit {} is too low: a session needs {}", size_text(*machine.memlock),
                                 size_text(locked_by_session)),
                       std::string(remedies.front().advice)});
    } else {
        out.push_back({Mark::well,
                       formatted("memlock limit {} is enough for {} of this user at once", size_text(*machine.memlock),
                                 counted(*machine.memlock / locked_by_session, "session")),
                       ""});
    }
}

Finding not_reached(const EndpointFacts & endpoint) {
    Finding out{Mark::fix, endpoint.failure, endpoint.advice};
    if (endpoint.stage == Stage::no_handshake) {
        const char * what = endpoint.failure_code == Errc::timed_out  ? "it accepts connections and does not answer"
                            : endpoint.failure_code == Errc::protocol ? "it accepts connections and is no RPC server"
                                                                      : "it accepts connections and drops them";
        out.what = formatted("{}: {}", what, endpoint.failure);
    }
    return out;
}

// Both ends have RDMA and the client has chosen a GID, and still it does not work: a fault, even if the user did not ask for RDMA.
bool is_broken(const EndpointFacts & endpoint) {
    constexpr std::array not_there{"no RDMA device", "no GID for", "is not active"};
    return endpoint.choice && endpoint.choice->found && endpoint.server_has_rdma &&
           std::ranges::none_of(not_there, [&](const char * words) { return endpoint.why_not_rdma.contains(words); });
}

Finding no_room(const wire::AdmissionAnswer & place) {
    using Reason = wire::AdmissionAnswer::Reason;
    const std::string why = net::describe(place);
    switch (place.reason) {
        case Reason::server_full:
            return {Mark::fix, formatted("the server is full: {}", why),
                    "wait, end another client, or start the server with more --max-sessions"};
        case Reason::address_full:
            return {Mark::fix, formatted("the server has no room for this address: {}", why),
                    "end another client on this machine, or start the server with more --max-per-address"};
        default:
            return {Mark::fix, formatted("the server answers, but no session begins: {}", why),
                    "its worker processes do not start, or slowly: the server's log tells why"};
    }
}

Finding look_at_transport(const Machine & machine, const EndpointFacts & endpoint) {
    if (endpoint.rdma) {
        return {Mark::well, "sessions go over RDMA", ""};
    }
    const std::string transport = endpoint.transport == "unix" ? "a Unix socket" : "TCP";
    const bool no_session = endpoint.transport.empty();
    if (no_session && machine.transport_mode != "rdma") {
        return {Mark::fix, formatted("no session: {}", endpoint.why_not_rdma),
                "the server's log tells why; GGML_RPC_DEBUG=1, there, logs more"};
    }
    if (machine.transport_mode == "tcp") {
        return {Mark::note, formatted("sessions go over {}, because GGML_RPC_TRANSPORT=tcp asks for it", transport),
                machine.built_with_rdma ? "unset it to get RDMA" : ""};
    }
    if (!machine.built_with_rdma) {
        return {obstacle(machine), formatted("sessions go over {}: this build has no RDMA", transport),
                endpoint.is_local && !machine.asks_for_rdma() ? "" : build_with_rdma};
    }
    if (endpoint.is_local && machine.transport_mode != "rdma") {
        return {Mark::note, formatted("sessions go over {}: server and client are one machine", transport),
                "to try RDMA on one machine, name the server by an address of the RDMA interface"};
    }
    if (machine.ports.empty() && !no_session && !machine.asks_for_rdma()) {
        return {Mark::well, formatted("sessions go over {}", transport), ""};
    }
    Finding out{is_broken(endpoint) ? Mark::fix : obstacle(machine),
                formatted("sessions go over {}, because {}", transport, endpoint.why_not_rdma), ""};
    if (no_session) {
        out.mark = Mark::fix;
        out.what = formatted("no session: {}", endpoint.why_not_rdma);
    }
    if (!endpoint.is_caravan) {
        out.advice = "run Caravan's rpc-server there, built with -DGGML_RPC_RDMA=ON; this program's RDMA does not work "
                     "with a stock server";
    } else if (!endpoint.server_has_rdma) {
        out.advice = "build the server with -DGGML_RPC_RDMA=ON, and start it without GGML_RPC_TRANSPORT=tcp";
    } else if (endpoint.why_not_rdma.starts_with("server: ")) {
        out.advice = formatted("at the server: {} (rpc-doctor, run there, tells more)", remedy_for(endpoint.why_not_rdma));
    } else {
        out.advice = remedy_for(endpoint.why_not_rdma);
    }
    return out;
}

void look_at_measured(const Measured & measured, std::string_view name, Findings & out) {
    if (measured.devices == 0 && measured.failure.empty()) {
        out.push_back({Mark::fix, "the server offers no device", "rpc-server --list-devices, there, shows what it could lend"});
    } else if (!measured.failure.empty()) {
        out.push_back({Mark::fix, formatted("measuring over {} ended early: {}", name, measured.failure),
                       measured.failure.contains("memory")
                           ? "the device is full: end what uses it"
                           : "the server's log tells why; GGML_RPC_DEBUG=1, there, logs more"});
    }
}

}  // namespace

Findings findings_of(const Machine & machine) {
    Findings out;
    if (!machine.built_with_rdma) {
        const std::string device = machine.ports.empty() ? "" : machine.ports.front().device + " is here: ";
        out.push_back({obstacle(machine), "this build has no RDMA: everything goes over TCP",
                       device.empty() && !machine.asks_for_rdma() ? "" : device + build_with_rdma});
    } else if (machine.transport_mode == "tcp") {
        out.push_back({Mark::note, "GGML_RPC_TRANSPORT=tcp: no RDMA is tried", "unset it to get RDMA"});
    }
    if (machine.built_with_rdma || !machine.ports.empty()) {
        look_at_devices(machine, out);
    }
    if (machine.built_with_rdma) {
        look_at_memlock(machine, out);
    }
    return out;
}

Findings findings_of(const Machine & machine, const EndpointFacts & endpoint) {
    if (endpoint.stage != Stage::reached) {
        return {not_reached(endpoint)};
    }
    if (endpoint.queue) {
        return {no_room(*endpoint.queue)};
    }
    Findings out{look_at_transport(machine, endpoint)};
    const Measured none;
    const Measured & plain = endpoint.plain ? *endpoint.plain : none;
    look_at_measured(plain, plain.transport == "unix" ? "a Unix socket" : "TCP", out);
    if (endpoint.rdma) {
        look_at_measured(*endpoint.rdma, "RDMA", out);
        const bool is_late = plain.median_us > 0 && endpoint.rdma->median_us > plain.median_us;
        const bool is_narrow = endpoint.rdma->to_server > 0 && endpoint.rdma->to_server < plain.to_server / 2;
        if (is_late || is_narrow) {
            out.push_back({Mark::note,
                           is_late ? "round trips take longer over RDMA than over TCP"
                                   : "RDMA carries less than half of what TCP does",
                           "as it must be with Soft-RoCE (rxe, siw), which is for trying; with an adapter: is it the one "
                           "that is chosen above, and is the processor idle?"});
        }
    }
    return out;
}

bool any_to_fix(const Findings & findings) {
    return std::ranges::any_of(findings, [](const Finding & finding) { return finding.mark == Mark::fix; });
}

}  // namespace caravan::doctor
