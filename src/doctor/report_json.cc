#include <cmath>
#include <nlohmann/json.hpp>

#include "doctor/report.h"

namespace caravan::doctor {
namespace {

using Json = nlohmann::ordered_json;
using Stage = EndpointFacts::Stage;

const char * stage_name(Stage stage) {
    switch (stage) {
        case Stage::no_address: return "no_address";
        case Stage::unreachable: return "unreachable";
        case Stage::silent: return "silent";
        case Stage::no_handshake: return "no_handshake";
        case Stage::other_version: return "other_version";
        case Stage::reached: return "reached";
    }
    return "";
}

Json known(const std::string & text) { return text.empty() ? Json() : Json(text); }

// Rounded to a tenth; null for 0.
Json known(double value) { return value == 0 ? Json() : Json(std::round(value * 10) / 10); }
Json whole(double value) { return value == 0 ? Json() : Json(std::llround(value)); }

Json to_json(const Findings & findings) {
    Json out = Json::array();
    for (const Finding & finding : findings) {
        const char * mark = finding.mark == Finding::Mark::fix ? "fix" : finding.mark == Finding::Mark::note ? "note" : "well";
        out.push_back({{"mark", mark}, {"what", finding.what}, {"advice", known(finding.advice)}});
    }
    return out;
}

Json to_json(const Port & port) {
    Json gids = Json::array();
    for (const Gid & gid : port.gids) {
        gids.push_back(
            {{"index", gid.index}, {"type", gid.type}, {"address", gid.address}, {"interface", known(gid.interface)}});
    }
    return {{"device", port.device},
            {"port", port.port},
            {"state", known(port.state)},
            {"link_layer", known(port.link_layer)},
            {"rate", known(port.rate)},
            {"usable", port.is_open},
            {"mtu_bytes", port.mtu == 0 ? Json() : Json(port.mtu)},
            {"gids", gids}};
}

Json to_json(const Machine & machine) {
    Json ports = Json::array(), settings = Json::object();
    for (const Port & port : machine.ports) {
        ports.push_back(to_json(port));
    }
    for (const auto & [name, value] : machine.settings) {
        settings[name] = value;
    }
    return {{"host", machine.host},
            {"kernel", machine.kernel},
            {"built_with_rdma", machine.built_with_rdma},
            {"why_no_libibverbs", known(machine.why_no_verbs)},
            {"ports", ports},
            {"verbs", machine.has_verbs},
            {"modules", machine.modules},
            {"memlock_bytes", machine.memlock ? Json(*machine.memlock) : Json()},
            {"may_lock_all", machine.may_lock_all},
            {"environment", settings},
            {"findings", to_json(findings_of(machine))}};
}

Json to_json(const std::optional<Measured> & measured) {
    if (!measured) {
        return {};
    }
    return {{"transport", measured->transport},
            {"queue_pairs", measured->queue_pairs},
            {"round_trips", measured->round_trips},
            {"median_us", known(measured->median_us)},
            {"p99_us", known(measured->p99_us)},
            {"to_server_bytes_per_second", whole(measured->to_server)},
            {"from_server_bytes_per_second", whole(measured->from_server)},
            {"failure", known(measured->failure)}};
}

Json to_json(const Machine & machine, const EndpointFacts & endpoint) {
    Json choice;
    if (endpoint.choice) {
        const bool found = endpoint.choice->found;
        choice = {{"device", known(endpoint.choice->device)},
                  {"port", found ? Json(endpoint.choice->port) : Json()},
                  {"gid_index", found ? Json(endpoint.choice->gid) : Json()},
                  {"why", endpoint.choice->why}};
    }
    const bool reached = endpoint.stage == Stage::reached;
    return {{"endpoint", endpoint.endpoint},
            {"stage", stage_name(endpoint.stage)},
            {"failure", known(endpoint.failure)},
            {"server", reached ? Json(endpoint.is_caravan ? "caravan" : "stock") : Json()},
            {"server_has_rdma", reached ? Json(endpoint.server_has_rdma) : Json()},
            {"protocol", known(endpoint.version)},
            {"devices", endpoint.plain ? Json(endpoint.plain->devices) : Json()},
            {"local_address", known(endpoint.local_address)},
            {"gid_choice", choice},
            {"queue_position", endpoint.queue ? Json(uint32_t{endpoint.queue->position}) : Json()},
            {"transport", known(endpoint.transport ? std::string(text_of(*endpoint.transport)) : "")},
            {"why_not_rdma", known(endpoint.why_not_rdma.text)},
            {"measured", {{"plain", to_json(endpoint.plain)}, {"rdma", to_json(endpoint.rdma)}}},
            {"findings", to_json(findings_of(machine, endpoint))}};
}

Json to_json(const std::optional<AllReduceFacts> & facts) {
    if (!facts) {
        return {};
    }
    Json sums = Json::array();
    for (const SumTime & sum : facts->sums) {
        sums.push_back({{"bytes", sum.bytes}, {"median_us", sum.us}});
    }
    return {{"endpoints", facts->endpoints},
            {"failure", known(facts->failure)},
            {"transports", known(facts->transports)},
            {"sums", sums}};
}

}  // namespace

std::string json(const Report & report) {
    Json endpoints = Json::array();
    for (const EndpointFacts & endpoint : report.endpoints) {
        endpoints.push_back(to_json(report.machine, endpoint));
    }
    const Json document{{"program", report.program},
                        {"well", !any_to_fix(report)},
                        {"machine", to_json(report.machine)},
                        {"endpoints", endpoints},
                        {"all_reduce", to_json(report.all_reduce)}};
    // Texts of hosts and servers need not be UTF-8.
    return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace caravan::doctor
