#include "doctor/report.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/formatted.h"
#include "base/size_text.h"

namespace caravan::doctor {
namespace {

using Stage = EndpointFacts::Stage;

template <class... Args>
void line(std::string & out, std::format_string<Args...> format, Args &&... args) {
    out += formatted(format, std::forward<Args>(args)...);
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
}

// Wraps at column 120; continuation lines are indented by the width of `first`.
void wrapped(std::string & out, std::string_view first, std::string_view text) {
    constexpr size_t width = 120;
    std::string row(first);
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        if (row.size() + end > width && row.size() > first.size()) {
            line(out, "{}", row);
            row.assign(first.size(), ' ');
        }
        row += text.substr(0, end);
        row += ' ';
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    line(out, "{}", row);
}

void put(std::string & out, const Findings & findings) {
    for (const Finding & finding : findings) {
        const char * mark = finding.mark == Finding::Mark::fix    ? "  FIX   "
                            : finding.mark == Finding::Mark::note ? "  note  "
                                                                  : "  ok    ";
        wrapped(out, mark, finding.what);
        if (!finding.advice.empty()) {
            wrapped(out, "        -> ", finding.advice);
        }
    }
}

std::string joined(const std::vector<std::string> & words) {
    std::string out;
    for (const std::string & word : words) {
        out += (out.empty() ? "" : " ") + word;
    }
    return out.empty() ? "none" : out;
}

// The endpoints that would use this GID, by the reason of the choice.
std::map<std::string, std::string> users_of(const Report & report, const Port & port, const Gid & gid) {
    std::map<std::string, std::string> out;
    for (const EndpointFacts & endpoint : report.endpoints) {
        const auto & choice = endpoint.choice;
        if (choice && choice->found && choice->device == port.device && choice->port == port.port && choice->gid == gid.index) {
            std::string & users = out[choice->why];
            users += (users.empty() ? "" : ", ") + endpoint.endpoint;
        }
    }
    return out;
}

void put_ports(std::string & out, const Report & report) {
    const Machine & machine = report.machine;
    for (const Port & port : machine.ports) {
        line(out, "  {} port {}: {}, {}, {}{}", port.device, port.port, port.state.empty() ? "state unknown" : port.state,
             port.link_layer.empty() ? "link layer unknown" : port.link_layer,
             port.rate.empty() ? "speed unknown" : port.rate, port.mtu == 0 ? "" : formatted(", MTU {}", port.mtu));
        if (!port.gids.empty()) {
            line(out, "     GID  {:<8}{:<41}{}", "type", "address", "interface");
        }
        for (const Gid & gid : port.gids) {
            const auto users = users_of(report, port, gid);
            line(out, "   {} {:>3}  {:<8}{:<41}{}", users.empty() ? ' ' : '*', gid.index, gid.type, gid.address, gid.interface);
            for (const auto & [why, names] : users) {
                wrapped(out, "          chosen ", formatted("for {}: {}", names, why));
            }
        }
    }
    for (const EndpointFacts & endpoint : report.endpoints) {
        if (endpoint.choice && !endpoint.choice->found && !machine.ports.empty()) {
            wrapped(out, "     none chosen ", formatted("for {}: {}", endpoint.endpoint, endpoint.choice->why));
        }
    }
    if (report.endpoints.empty() && machine.built_with_rdma && !machine.ports.empty()) {
        line(out, "     the choice depends on the route to the server: name an endpoint to see it");
    }
}

void put_machine(std::string & out, const Report & report) {
    const Machine & machine = report.machine;
    line(out, "This machine: {}, {}", machine.host, machine.kernel);
    line(out, "  build: {}", !machine.built_with_rdma        ? "without RDMA"
                                     : machine.why_no_verbs.empty() ? "with RDMA"
                                                                    : "with RDMA, but " + machine.why_no_verbs);
    if (machine.ports.empty()) {
        line(out, "  RDMA devices: none");
    }
    put_ports(out, report);
    line(out, "  memlock limit: {}{}",
         machine.memlock ? size_text(*machine.memlock) : std::string("none"),
         machine.memlock && machine.may_lock_all ? ", which does not apply to this user (CAP_IPC_LOCK)" : "");
    wrapped(out, "  kernel modules: ",
            joined(machine.modules) + (machine.has_verbs && !std::ranges::contains(machine.modules, "ib_uverbs")
                                           ? " (ib_uverbs is built in)"
                                           : ""));
    for (const auto & [name, value] : machine.settings) {
        line(out, "  {}={}", name, value);
    }
    put(out, findings_of(machine));
}

std::string microseconds_text(const Measured * measured, double value) {
    return measured == nullptr || measured->round_trips == 0 ? "-" : formatted("{:.1f} µs", value);
}

std::string rate_text(const Measured * measured, double value) {
    return measured == nullptr || value == 0 ? "-" : formatted("{:.0f} MB/s", value / 1e6);
}

void put_measured(std::string & out, const EndpointFacts & endpoint) {
    const Measured * plain = endpoint.plain ? &*endpoint.plain : nullptr;
    const Measured * rdma = endpoint.rdma ? &*endpoint.rdma : nullptr;
    if (plain == nullptr && rdma == nullptr) {
        return;
    }
    const auto row = [&](std::string_view name, auto text, double Measured::* value) {
        line(out, "  {:<24}{:>14}{:>14}", name, text(plain, plain == nullptr ? 0 : plain->*value),
             text(rdma, rdma == nullptr ? 0 : rdma->*value));
    };
    line(out, "  {:<24}{:>14}{:>14}", "measured over",
         plain != nullptr && plain->transport == net::TransportKind::unix_socket ? "Unix socket" : "TCP", "RDMA");
    if (rdma != nullptr) {
        line(out, "  {:<24}{:>14}{:>14}", "queue pairs", "", rdma->queue_pairs);
    }
    row("round trip, median", microseconds_text, &Measured::median_us);
    row("round trip, p99", microseconds_text, &Measured::p99_us);
    row("to the server", rate_text, &Measured::to_server);
    row("from the server", rate_text, &Measured::from_server);
}

void put_endpoint(std::string & out, const Report & report, const EndpointFacts & endpoint) {
    line(out, "\nEndpoint {}", endpoint.endpoint);
    if (endpoint.stage == Stage::reached) {
        const Measured * device = endpoint.plain && endpoint.plain->devices > 0 ? &*endpoint.plain
                                : endpoint.rdma                               ? &*endpoint.rdma
                                                                              : nullptr;
        line(out, "  server: {}, RPC protocol {}{}",
             !endpoint.is_caravan ? "stock" : endpoint.server_has_rdma ? "Caravan with RDMA" : "Caravan without RDMA",
             endpoint.version,
             device == nullptr || device->devices == 0
                 ? ""
                 : formatted(", {} with {} of {} free", device->devices == 1 ? "1 device" : formatted("{} devices, the first",
                             device->devices), size_text(device->device_free), size_text(device->device_total)));
        if (!endpoint.local_address.empty()) {
            line(out, "  local address: {}", endpoint.local_address);
        }
        put_measured(out, endpoint);
    }
    put(out, findings_of(report.machine, endpoint));
}

// A model, as far as the prediction needs it. The sum has one value for each element of its embedding.
struct ModelShape {
    std::string_view name;
    int layers;
    uint64_t sum_bytes;
};
constexpr std::array<ModelShape, 4> shapes{{{"dense, 1 B", 16, 8 << 10},
                                            {"dense, 8 B", 32, 16 << 10},
                                            {"dense, 70 B", 80, 32 << 10},
                                            {"MoE, 30 B, 3 B active", 48, 8 << 10}}};
constexpr std::array<int, 5> token_ms{5, 10, 20, 50, 100};

void put_all_reduce(std::string & out, const AllReduceFacts & facts) {
    line(out, "\nTensor parallelism (-sm tensor) over {}", joined(facts.endpoints));
    if (!facts.failure.empty()) {
        wrapped(out, "  note  ", "the servers do not add up tensors directly: " + facts.failure);
        return;
    }
    line(out, "  links between the servers: {}", facts.transports);
    std::string header = formatted("  {:<24}", "size of a tensor"), times = formatted("  {:<24}", "time to add it up");
    for (const SumTime & sum : facts.sums) {
        header += formatted("{:>12}", size_text(sum.bytes));
        times += formatted("{:>9.0f} µs", sum.us);
    }
    line(out, "{}\n{}", header, times);
    wrapped(out, "  ", formatted("Predicted speed of generation on {} servers; on one it is 1. A token takes 1000 / (tokens/s) "
                                 "ms there: llama-bench -n 128 tells.", facts.endpoints.size()));
    std::string row = formatted("  {:<24}", "a token on one server");
    for (const int ms : token_ms) {
        row += formatted("{:>9} ms", ms);
    }
    line(out, "{}", row);
    for (const ModelShape & shape : shapes) {
        row = formatted("  {:<24}", shape.name);
        for (const int ms : token_ms) {
            row += formatted("{:>12.2f}", predicted_speed(facts.endpoints.size(), ms * 1000.0, shape.layers,
                                                          time_of_sum(facts.sums, shape.sum_bytes)));
        }
        line(out, "{}", row);
    }
    wrapped(out, "  ", formatted("The formula, if the servers are alike: 1 / ({:g} + {:g} / {} + 2 * layers * sum / token), "
                                 "where layers are {}, {}, {} and {}, and the sum is that of an embedding",
                                 repeated_part, 1 - repeated_part, facts.endpoints.size(), shapes[0].layers, shapes[1].layers,
                                 shapes[2].layers, shapes[3].layers));
}

}  // namespace

bool any_to_fix(const Report & report) {
    return any_to_fix(findings_of(report.machine)) ||
           std::ranges::any_of(report.endpoints, [&](const EndpointFacts & endpoint) {
               return any_to_fix(findings_of(report.machine, endpoint));
           });
}

std::string page(const Report & report) {
    std::string out;
    line(out, "{}\n", report.program);
    put_machine(out, report);
    for (const EndpointFacts & endpoint : report.endpoints) {
        put_endpoint(out, report, endpoint);
    }
    if (report.all_reduce) {
        put_all_reduce(out, *report.all_reduce);
    }
    line(out, "\n{}", any_to_fix(report) ? "Faults found: see FIX above." : "No faults found.");
    return out;
}

}  // namespace caravan::doctor
