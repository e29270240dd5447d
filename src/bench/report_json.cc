#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/report.h"

namespace caravan::bench {
namespace {

using Json = nlohmann::ordered_json;

Json known(const std::string & text) { return text.empty() ? Json() : Json(text); }

Json to_json(const Summary & summary) {
    if (summary.count == 0) {
        return {};
    }
    return {{"median", summary.median}, {"min", summary.min}, {"max", summary.max}, {"count", summary.count}};
}

Json to_json(const std::optional<Traffic> & traffic) {
    if (!traffic) {
        return {};
    }
    Json shares;
    if (traffic->shares) {
        shares = {{"client", traffic->shares->client},
                  {"compute", traffic->shares->compute},
                  {"wire", traffic->shares->wire},
                  {"queue", traffic->shares->queue}};
    }
    return {{"round_trips", traffic->round_trips}, {"sends", traffic->sends},
            {"bytes_up", traffic->bytes_up},       {"bytes_down", traffic->bytes_down},
            {"us", traffic->us},                   {"shares_us", shares}};
}

Json to_json(const TrafficRow & row) {
    return {{"round_trips", to_json(row.round_trips)},
            {"sends", to_json(row.sends)},
            {"bytes_up", to_json(row.bytes_up)},
            {"bytes_down", to_json(row.bytes_down)},
            {"us", to_json(row.us)},
            {"shares_us",
             {{"client", to_json(row.client)},
              {"compute", to_json(row.compute)},
              {"wire", to_json(row.wire)},
              {"queue", to_json(row.queue)}}}};
}

Json to_json(const LoadRow & row) {
    return {{"seconds", to_json(row.seconds)}, {"from_cache", to_json(row.from_cache)}};
}

Json to_json(const Run & run) {
    Json tests = Json::array();
    for (const Test & test : run.tests) {
        tests.push_back({{"test", test.name},
                         {"tokens", test.tokens},
                         {"samples_ns", test.ns},
                         {"tokens_per_second", test.tokens_per_second()}});
    }
    return {{"round", run.round},
            {"position", run.position},
            {"load_s", run.load_s},
            {"load_from_cache", run.load_from_cache ? Json(*run.load_from_cache) : Json()},
            {"tests", tests},
            {"traffic", to_json(run.traffic)}};
}

Json to_json(const Measured & measured, const Comparison & comparison, const Settings & settings) {
    Json environment = Json::object(), runs = Json::array(), tests = Json::array();
    for (const auto & [name, value] : environment_of(measured.arrangement, settings)) {
        environment[name] = known(value);
    }
    for (const Row & row : comparison.rows) {
        tests.push_back({{"test", row.test},
                         {"tokens_per_second", to_json(row.tokens_per_second)},
                         {"ratio", to_json(row.ratio)},
                         {"overhead_us_per_token", to_json(row.overhead_us)},
                         {"overhead_is_below_noise",
                          row.overhead_us.count == 0 ? Json() : Json(is_below_noise(row.overhead_us))}});
    }
    for (const Run & run : measured.runs) {
        runs.push_back(to_json(run));
    }
    return {{"name", measured.arrangement.name()},
            {"endpoints", measured.arrangement.endpoints},
            {"command", command_of(measured.arrangement, settings)},
            {"environment", environment},
            {"failure", known(measured.failure)},
            {"load_s", to_json(comparison.load_s)},
            {"load_ratio", to_json(comparison.load_ratio)},
            {"first_load", to_json(comparison.first_load)},
            {"later_loads", to_json(comparison.later_loads)},
            {"tests", tests},
            {"traffic_per_token", to_json(comparison.traffic)},
            {"runs", runs}};
}

Json to_json(const Link & link) {
    Json sizes = Json::array();
    const std::vector<LinkRow> rows = rows_of(link);
    for (size_t i = 0; i < rows.size(); ++i) {  // a failed link has measured its first sizes
        const LinkRow & row = rows[i];
        sizes.push_back({{"bytes", row.bytes},
                         {"round_trips", row.round_trips},
                         {"p50_us", row.p50_us},
                         {"p90_us", row.p90_us},
                         {"p99_us", row.p99_us},
                         {"to_server_bytes_per_second", to_json(row.to_server)},
                         {"from_server_bytes_per_second", to_json(row.from_server)},
                         {"rounds",
                          {{"round_trips_us", link.sizes[i].round_trips_us},
                           {"to_server_bytes_per_second", link.sizes[i].to_server},
                           {"from_server_bytes_per_second", link.sizes[i].from_server}}}});
    }
    return {{"endpoint", link.endpoint},
            {"transport", known(std::string(link.transport_text()))},
            {"why_not_rdma", known(link.why_not_rdma)},
            {"failure", known(link.failure)},
            {"advice", known(link.advice)},
            {"sizes", sizes}};
}

// Texts of programs and servers need not be UTF-8.
std::string text_of(const Json & document) { return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

std::string json(const ModelBench & bench, const std::string & program) {
    Json arrangements = Json::array();
    const std::vector<Comparison> comparisons = compare(bench.measured);
    for (size_t i = 0; i < comparisons.size(); ++i) {
        arrangements.push_back(to_json(bench.measured[i], comparisons[i], bench.settings));
    }
    return text_of({{"program", program},
                    {"kind", "model"},
                    {"model",
                     {{"file", bench.settings.model},
                      {"type", known(bench.facts.type)},
                      {"bytes", bench.facts.bytes},
                      {"parameters", bench.facts.parameters}}},
                    {"machine", {{"cpu", known(bench.facts.cpu)}, {"gpu", known(bench.facts.gpu)}}},
                    {"llama_bench", {{"program", bench.settings.program}, {"build", known(bench.facts.build)}}},
                    {"rounds", bench.rounds},
                    {"repetitions", bench.settings.repetitions},
                    {"cold", bench.cold},
                    {"first", bench.measured.front().arrangement.name()},
                    {"arrangements", arrangements}});
}

std::string json(const LinkBench & bench, const std::string & program) {
    Json links = Json::array();
    for (const Link & link : bench.links) {
        links.push_back(to_json(link));
    }
    return text_of({{"program", program},
                    {"kind", "transport"},
                    {"rounds", bench.rounds},
                    {"time_ms", bench.time.count()},
                    {"links", links}});
}

std::string json(const ReductionBench & bench, const std::string & program) {
    Json sizes = Json::array();
    const auto rows = rows_of(bench);
    for (const ReductionSamples & samples : bench.sizes) {
        const auto row = std::ranges::find(rows, samples.bytes, &ReductionRow::bytes);
        if (row != rows.end()) {
            sizes.push_back({{"bytes", samples.bytes},
                             {"algorithm", known(std::string(row->algorithm))},
                             {"p50_us", row->p50_us},
                             {"p10_us", row->p10_us},
                             {"p90_us", row->p90_us},
                             {"us", samples.us}});
        }
    }
    return text_of({{"program", program},
                    {"kind", "all_reduce"},
                    {"rounds", bench.rounds},
                    {"endpoints", bench.endpoints},
                    {"transports", known(bench.transports)},
                    {"failure", known(bench.failure)},
                    {"sizes", sizes}});
}

}  // namespace caravan::bench
