#include "doctor/findings.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/counted.h"
#include "base/formatted.h"
#include "base/size_text.h"
#include "net/client_handshake.h"

namespace caravan::doctor {
namespace {

using Mark = Finding::Mark;
using Stage = EndpointFacts::Stage;

constexpr const char * build_with_rdma =
    "build with -DGGML_RPC_RDMA=ON (needs libibverbs-dev or libibverbs-devel), on both sides";
constexpr const char * soft_roce =
    "to try it without an adapter: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0";

constexpr std::string_view closed_device_advice =
    "install rdma-core (ibverbs-providers has the adapters' libraries), load ib_uverbs, and check that this user may read and "
    "write /dev/infiniband/uverbs*; a container needs --device=/dev/infiniband";

constexpr std::string_view raise_memlock = "raise it: ulimit -l unlimited in the shell, LimitMEMLOCK=infinity in the systemd "
                                           "service, --ulimit memlock=-1 for a container";

// docs/rdma.md
std::string_view remedy_for(Reason reason) {
    switch (reason) {
        case Reason::memlock_limit: return raise_memlock;
        case Reason::no_rdma_path:
            return "open UDP port 4791 between the machines, in both directions; the GIDs must be in the same network; the GID "
                   "of a bridge does not work: give the address to the adapter's own interface; the switch must support the "
                   "MTU";
        case Reason::no_rdma_library:
            return "install libibverbs (Debian: apt install libibverbs1 ibverbs-providers; others: rdma-core)";
        case Reason::rdma_device_closed: return closed_device_advice;
        case Reason::no_rdma_device: return "ibv_devices must list one there: install rdma-core, load the adapter's driver";
        case Reason::rdma_port_inactive: return "the link is down: cable, switch port, ip link set INTERFACE up";
        case Reason::no_rdma_gid:
            return "name the server by an address of the RDMA interface, or give that interface the address; or set "
                   "GGML_RDMA_DEV and GGML_RDMA_GID (see the table above)";
        case Reason::rdma_setting: return "unset it, or set it to an entry of the table above";
        case Reason::unspecified: break;
    }
    return "see the server's log; GGML_RPC_DEBUG=1 on both machines logs more";
}

// The mark of a fault that prevents RDMA only.
Mark obstacle(const Machine & machine) { return machine.asks_for_rdma() ? Mark::fix : Mark::note; }

void check_port(const Machine & machine, const Port & port, bool other_is_active, Findings & out) {
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
                       std::string(closed_device_advice)});
        return;
    }
    if (machine.built_with_rdma && port.gids.empty()) {
        out.push_back({obstacle(machine), formatted("{} has no GID", name), "give its interface an IP address"});
        return;
    }
    out.push_back({Mark::well, formatted("{} is up{}{}", name, port.rate.empty() ? "" : ", ", port.rate), ""});
    if (port.is_open && port.mtu < 2048 && port.link_layer == "Ethernet") {
        out.push_back({Mark::note, formatted("{} sends packets of {} bytes", name, port.mtu),
                       "jumbo frames make large transfers cheaper: set MTU 4200 or more on the interface, its peer and "
                       "the switch, for packets of 4096 bytes"});
    }
}

void check_devices(const Machine & machine, Findings & out) {
    if (!machine.why_no_verbs.empty()) {
        out.push_back({obstacle(machine), formatted("{}: all connections use TCP", machine.why_no_verbs),
                       "for RDMA, install it (Debian: apt install libibverbs1 ibverbs-providers; others: rdma-core)"});
        return;
    }
    if (machine.ports.empty()) {
        out.push_back({obstacle(machine), "no RDMA device: all connections use TCP",
                       formatted("for RDMA, install rdma-core and load the adapter's driver: mlx5_ib (NVIDIA, Mellanox), "
                                 "bnxt_re (Broadcom), irdma (Intel); {}",
                                 soft_roce)});
        return;
    }
    if (!machine.has_verbs) {
        out.push_back({obstacle(machine), "the kernel does not offer its RDMA devices to programs", "sudo modprobe ib_uverbs"});
    }
    const bool any_active = std::ranges::any_of(machine.ports, &Port::is_active);
    for (const Port & port : machine.ports) {
        check_port(machine, port, any_active, out);
    }
}

void check_memlock(const Machine & machine, Findings & out) {
    if (machine.ports.empty() && !machine.asks_for_rdma()) {
        return;  // only RDMA needs locked memory
    }
    if (machine.may_lock_all || !machine.memlock) {
        out.push_back({Mark::well, "no limit on locked memory", ""});
    } else if (*machine.memlock < locked_by_session) {
        out.push_back({obstacle(machine),
                       formatted("memlock limit {} is too low: a session needs {}", size_text(*machine.memlock),
                                 size_text(locked_by_session)),
                       std::string(raise_memlock)});
    } else {
        out.push_back({Mark::well,
                       formatted("memlock limit {} is enough for RDMA with {} in one program", size_text(*machine.memlock),
                                 counted(*machine.memlock / locked_by_session, "server")),
                       ""});
    }
}

Finding not_reached(const EndpointFacts & endpoint) {
    Finding out{Mark::fix, endpoint.failure, endpoint.advice};
    if (endpoint.stage == Stage::no_handshake) {
        const char * symptom = endpoint.failure_code == Errc::timed_out  ? "it accepts connections, but does not reply"
                            : endpoint.failure_code == Errc::protocol ? "it accepts connections, but is not an RPC server"
                                                                      : "it accepts connections, but closes them";
        out.what = formatted("{}: {}", symptom, endpoint.failure);
    }
    return out;
}

// True if both peers have RDMA and the client has chosen a GID, but RDMA fails: a fault even if the user did not request RDMA.
bool is_broken(const EndpointFacts & endpoint) {
    constexpr std::array absent{Reason::no_rdma_device, Reason::no_rdma_gid, Reason::rdma_port_inactive};
    return endpoint.choice && endpoint.choice->found && endpoint.server_has_rdma &&
           !std::ranges::contains(absent, endpoint.why_not_rdma.reason);
}

Finding no_session(const wire::AdmissionReply & place) {
    using Reason = wire::AdmissionReply::Reason;
    const std::string why = net::describe(place);
    switch (place.reason) {
        case Reason::server_full:
            return {Mark::fix, formatted("the server is full: {}", why),
                    "wait, end another client, or start the server with more --max-sessions"};
        case Reason::address_full:
            return {Mark::fix, formatted("the server has no free session for this address: {}", why),
                    "end another client on this machine, or start the server with more --max-per-address"};
        default:
            return {Mark::fix, formatted("the server replies, but does not start a session: {}", why),
                    "its worker processes do not start, or start slowly: see the server's log"};
    }
}

Finding check_transport(const Machine & machine, const EndpointFacts & endpoint) {
    if (endpoint.rdma) {
        return {Mark::well, "sessions use RDMA", ""};
    }
    const std::string transport = endpoint.transport == net::TransportKind::unix_socket ? "a Unix socket" : "TCP";
    const bool is_refused = !endpoint.transport;
    if (is_refused && machine.transport_mode != TransportMode::rdma) {
        return {Mark::fix, formatted("no session: {}", endpoint.why_not_rdma.text),
                std::string(remedy_for(endpoint.why_not_rdma.reason))};
    }
    if (machine.transport_mode == TransportMode::tcp) {
        return {Mark::note, formatted("sessions use {}, because of GGML_RPC_TRANSPORT=tcp", transport),
                machine.built_with_rdma ? "unset it to use RDMA" : ""};
    }
    if (!machine.built_with_rdma) {
        return {obstacle(machine), formatted("sessions use {}: this build has no RDMA", transport),
                endpoint.is_local && !machine.asks_for_rdma() ? "" : build_with_rdma};
    }
    if (endpoint.is_local && machine.transport_mode != TransportMode::rdma) {
        return {Mark::note, formatted("sessions use {}: server and client are on one machine", transport),
                "to try RDMA on one machine, name the server by an address of the RDMA interface"};
    }
    if (machine.ports.empty() && !is_refused && !machine.asks_for_rdma()) {
        return {Mark::well, formatted("sessions use {}", transport), ""};
    }
    Finding out{is_broken(endpoint) ? Mark::fix : obstacle(machine),
                formatted("sessions use {}, because {}", transport, endpoint.why_not_rdma.text), ""};
    if (is_refused) {
        out.mark = Mark::fix;
        out.what = formatted("no session: {}", endpoint.why_not_rdma.text);
    }
    if (!endpoint.is_caravan) {
        out.advice = "run Caravan's rpc-server there, built with -DGGML_RPC_RDMA=ON: Caravan has no RDMA with a stock "
                     "server";
    } else if (!endpoint.server_has_rdma) {
        out.advice = "build the server with -DGGML_RPC_RDMA=ON, and start it without GGML_RPC_TRANSPORT=tcp";
    } else if (endpoint.why_not_rdma.is_at_server) {
        out.advice = formatted("at the server: {} (run rpc-doctor there for details)",
                               remedy_for(endpoint.why_not_rdma.reason));
    } else {
        out.advice = remedy_for(endpoint.why_not_rdma.reason);
    }
    return out;
}

void check_measured(const Measured & measured, std::string_view name, Findings & out) {
    if (measured.devices == 0 && measured.failure.empty()) {
        out.push_back({Mark::fix, "the server offers no device",
                       "run rpc-server --list-devices there: it prints the devices that the server can lend"});
    } else if (!measured.failure.empty()) {
        out.push_back({Mark::fix, formatted("measuring over {} failed: {}", name, measured.failure),
                       measured.failure_code == Errc::no_memory
                           ? "the device has too little free memory: end programs that use it"
                           : "see the server's log; GGML_RPC_DEBUG=1 there logs more"});
    }
}

}  // namespace

Findings findings_of(const Machine & machine) {
    Findings out;
    if (!machine.built_with_rdma) {
        const std::string device = machine.ports.empty() ? "" : machine.ports.front().device + " is here: ";
        out.push_back({obstacle(machine), "this build has no RDMA: all connections use TCP",
                       device.empty() && !machine.asks_for_rdma() ? "" : device + build_with_rdma});
    } else if (machine.transport_mode == TransportMode::tcp) {
        out.push_back({Mark::note, "GGML_RPC_TRANSPORT=tcp: RDMA is not tried", "unset it to use RDMA"});
    }
    if (machine.built_with_rdma || !machine.ports.empty()) {
        check_devices(machine, out);
    }
    if (machine.built_with_rdma) {
        check_memlock(machine, out);
    }
    return out;
}

Findings findings_of(const Machine & machine, const EndpointFacts & endpoint) {
    if (endpoint.stage != Stage::reached) {
        return {not_reached(endpoint)};
    }
    if (endpoint.queue) {
        return {no_session(*endpoint.queue)};
    }
    Findings out{check_transport(machine, endpoint)};
    const Measured none;
    const Measured & plain = endpoint.plain ? *endpoint.plain : none;
    check_measured(plain, plain.transport == net::TransportKind::unix_socket ? "a Unix socket" : "TCP", out);
    if (endpoint.rdma) {
        check_measured(*endpoint.rdma, "RDMA", out);
        const bool is_slower = plain.median_us > 0 && endpoint.rdma->median_us > plain.median_us;
        const bool is_narrower = endpoint.rdma->to_server > 0 && endpoint.rdma->to_server < plain.to_server / 2;
        if (is_slower || is_narrower) {
            out.push_back({Mark::note,
                           is_slower ? "round trips take longer over RDMA than over TCP"
                                   : "RDMA has less than half the bandwidth of TCP",
                           "expected with Soft-RoCE (rxe, siw), which is for tests; with an adapter, check that it is the one "
                           "chosen above, and that the processor is idle"});
        }
    }
    return out;
}

bool any_to_fix(const Findings & findings) {
    return std::ranges::any_of(findings, [](const Finding & finding) { return finding.mark == Mark::fix; });
}

}  // namespace caravan::doctor
