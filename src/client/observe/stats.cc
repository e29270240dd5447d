#include "client/observe/stats.h"


#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "platform/file.h"

namespace caravan::client {
namespace {

const std::string & file_name() {
    static const std::string & only = *new std::string(text_of(variable::stats));  // sessions may outlive static objects
    return only;
}

double seconds_of(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

std::string fields_of(const Tally & tally) {
    const StreamCounts & stream = tally.stream;
    return formatted(
        R"("seconds":{:.6f},"sends":{},"bytes_sent":{},"bytes_received":{},"round_trips":{},"launches":{},)"
        R"("waiting_s":{:.6f},"sending_s":{:.6f})",
        tally.seconds, stream.sends, stream.bytes_sent, stream.bytes_received, stream.round_trips, tally.launches,
        seconds_of(stream.waiting_ns), seconds_of(stream.sending_ns));
}

}  // namespace

std::string json_string(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += formatted("\\u{:04x}", static_cast<unsigned>(c));
        } else {
            out += c;
        }
    }
    return out + "\"";
}

bool stats_enabled() { return !file_name().empty(); }

std::string to_json(const SessionStats & stats) {
    std::string served;
    for (const auto & [command, ns] : stats.served_ns) {
        served += formatted("{}{}:{:.6f}", served.empty() ? "" : ",", json_string(command), seconds_of(ns));
    }
    return formatted(
        R"({{"endpoint":{},"dialect":{},"transport":{},"queue_pairs":{},"replacements":{},{},"since_load":{{{}}},)"
        R"("weights":{{"bytes":{},"from_cache":{},"seconds":{:.6f}}},"round_trip_s":{},"served_s":{{{}}}}})",
        json_string(stats.endpoint), json_string(stats.dialect), json_string(text_of(stats.transport)), stats.queue_pairs,
        stats.replacements, fields_of(stats.whole), fields_of(stats.since_load), stats.weights.bytes, stats.weights.from_cache,
        std::chrono::duration<double>(stats.weights.time).count(),
        stats.round_trip_ns ? formatted("{:.9f}", seconds_of(*stats.round_trip_ns)) : "null", served);
}

void append_stats(const SessionStats & stats) {
    const std::string line = to_json(stats) + "\n";
    const auto file = platform::open_to_append(file_name());
    const auto written = file.and_then(
        [&](const UniqueFd & fd) { return platform::write_at_once(fd.get(), const_bytes(line.data(), line.size())); });
    if (!written) {
        log_error("GGML_RPC_STATS: cannot write {}: {}", file_name(), written.error().text);
    }
}

}  // namespace caravan::client
