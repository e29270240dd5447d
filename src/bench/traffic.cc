#include "bench/traffic.h"

#include <algorithm>
#include <sstream>

#include "base/counted.h"
#include "bench/json_count.h"

namespace caravan::bench {
namespace {

constexpr const char * waits_for_another_server = "TAKE";
constexpr const char * overlaps_others = "COMPUTE";  // commands that wait for it last as long

SessionCounts session_of(const nlohmann::json & line) {
    const nlohmann::json & since = line.at("since_load");
    SessionCounts out{.endpoint = line.at("endpoint"),
                      .replacements = count<uint64_t>(line.value("replacements", nlohmann::json(0u))),
                      .sends = count<uint64_t>(since.at("sends")),
                      .bytes_sent = count<uint64_t>(since.at("bytes_sent")),
                      .bytes_received = count<uint64_t>(since.at("bytes_received")),
                      .round_trips = count<uint64_t>(since.at("round_trips")),
                      .launches = count<uint64_t>(since.at("launches")),
                      .waiting_s = since.at("waiting_s"),
                      .weights = count<uint64_t>(line.at("weights").at("bytes")),
                      .weights_from_cache = count<uint64_t>(line.at("weights").at("from_cache"))};
    if (!line.at("round_trip_s").is_null()) {
        out.round_trip_s = line.at("round_trip_s");
        double busy = 0;
        for (const auto & [command, seconds] : line.at("served_s").items()) {
            busy += command == waits_for_another_server || command == overlaps_others ? 0 : seconds.get<double>();
        }
        out.busy_s = busy;
    }
    return out;
}

std::vector<SessionCounts> by_endpoint(std::vector<SessionCounts> sessions) {
    std::ranges::sort(sessions, {}, &SessionCounts::endpoint);
    return sessions;
}

}  // namespace

Result<std::vector<SessionCounts>> parse_stats(const std::string & text) {
    std::vector<SessionCounts> out;
    std::istringstream lines(text);
    try {
        for (std::string line; std::getline(lines, line);) {
            if (SessionCounts session = session_of(nlohmann::json::parse(line)); session.launches > 0) {
                out.push_back(std::move(session));
            }
        }
    } catch (const std::exception & error) {
        return fail(Errc::protocol, "cannot parse the plug-in's counts: {}", error.what());
    }
    return out;
}

std::optional<double> share_from_cache(const std::vector<SessionCounts> & sessions) {
    double all = 0, from_cache = 0;
    for (const SessionCounts & session : sessions) {
        all += static_cast<double>(session.weights);
        from_cache += static_cast<double>(session.weights_from_cache);
    }
    return all > 0 ? std::optional(from_cache / all) : std::nullopt;
}

Result<Traffic> traffic_of(const GeneratedTokens & shorter, const GeneratedTokens & longer, Computing servers) {
    const auto before = by_endpoint(shorter.sessions), after = by_endpoint(longer.sessions);
    if (longer.tokens <= shorter.tokens ||
        !std::ranges::equal(before, after, {}, &SessionCounts::endpoint, &SessionCounts::endpoint)) {
        return fail(Errc::protocol, "cannot compare two runs: {} in {}, and {} in {}",
                    counted(shorter.tokens, "token"), counted(before.size(), "session"), longer.tokens, after.size());
    }
    const auto tokens = static_cast<double>(longer.tokens - shorter.tokens);
    const auto more = [](const auto & now, const auto & then) {
        return static_cast<double>(now) - static_cast<double>(then);
    };
    Traffic out{.us = (longer.seconds - shorter.seconds) * 1e6 / tokens};
    const auto add = [&](double & total, double one) {
        total = servers == Computing::at_once ? std::max(total, one) : total + one;
    };
    double waiting_s = 0, wire_s = 0, busy_s = 0;
    bool all_report = true;
    for (size_t i = 0; i < before.size(); ++i) {
        const SessionCounts &then = before[i], &now = after[i];
        const double round_trips = more(now.round_trips, then.round_trips);
        out.round_trips += round_trips / tokens;
        out.sends += more(now.sends, then.sends) / tokens;
        out.bytes_up += more(now.bytes_sent, then.bytes_sent) / tokens;
        out.bytes_down += more(now.bytes_received, then.bytes_received) / tokens;
        waiting_s += now.waiting_s - then.waiting_s;
        all_report = all_report && now.busy_s && then.busy_s;
        if (all_report) {
            add(busy_s, *now.busy_s - *then.busy_s);
            add(wire_s, round_trips * std::min(*now.round_trip_s, *then.round_trip_s));
        }
    }
    if (all_report) {
        const double scale = 1e6 / tokens;
        out.shares = {.client = out.us - waiting_s * scale,
                      .compute = busy_s * scale,
                      .wire = wire_s * scale,
                      .queue = (waiting_s - busy_s - wire_s) * scale};
    }
    return out;
}

}  // namespace caravan::bench
