#include <algorithm>
#include <string_view>

#include "base/counted.h"
#include "base/formatted.h"
#include "bench/report.h"
#include "bench/table.h"

namespace caravan::bench {
namespace {

// Three significant digits or more, since links differ by powers of ten.
std::string megabytes(double per_second) {
    const double value = per_second / 1e6;
    return formatted("{:.{}f}", value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

std::string spread(const Summary & rate) {
    return formatted("{} ({}-{})", megabytes(rate.median), megabytes(rate.min), megabytes(rate.max));
}

}  // namespace

std::vector<LinkRow> rows_of(const Link & link) {
    std::vector<LinkRow> out;
    for (const SizeSamples & samples : link.sizes) {
        std::vector<double> trips;
        for (const auto & round : samples.round_trips_us) {
            trips.insert(trips.end(), round.begin(), round.end());
        }
        if (trips.empty()) {
            continue;
        }
        std::ranges::sort(trips);
        out.push_back({samples.bytes, trips.size(), percentile(trips, 50), percentile(trips, 90), percentile(trips, 99),
                       summarize(samples.to_server), summarize(samples.from_server)});
    }
    return out;
}

std::string markdown(const LinkBench & bench) {
    Table table;
    table.add_column("endpoint", false);
    table.add_column("transport", false);
    for (const char * header : {"message", "round trips", "p50, µs", "p90, µs", "p99, µs",
                                "to server, MB/s (min-max)", "from server, MB/s (min-max)"}) {
        table.add_column(header, true);
    }
    std::string notes;
    for (const Link & link : bench.links) {
        for (const LinkRow & row : rows_of(link)) {
            table.add_row({link.endpoint, std::string(link.transport_text()), size_text(row.bytes),
                           std::to_string(row.round_trips), formatted("{:.1f}", row.p50_us), formatted("{:.1f}", row.p90_us),
                           formatted("{:.1f}", row.p99_us), spread(row.to_server), spread(row.from_server)});
        }
        if (!link.failure.empty()) {
            notes += formatted("\n{}{} failed: {}\n{}", link.endpoint,
                               link.transport ? formatted(" over {}", text_of(*link.transport)) : "", link.failure,
                               link.advice.empty() ? "" : "-> " + link.advice + "\n");
        }
        if (!link.why_not_rdma.empty()) {
            notes += formatted("\n{}: no RDMA: {}\n", link.endpoint, link.why_not_rdma);
        }
    }
    if (std::ranges::all_of(bench.links, [](const Link & link) { return rows_of(link).empty(); })) {
        return notes.empty() ? notes : notes.substr(1);
    }
    return table.text() + notes +
           formatted("\nround trips: all of {}; MB/s: median of the rounds, payload only\n", counted(bench.rounds, "round"));
}

std::string csv(const LinkBench & bench) {
    std::string out = "endpoint,transport,bytes,round,measure,value\n";
    for (const Link & link : bench.links) {
        for (const SizeSamples & samples : link.sizes) {
            for (size_t round = 0; round < samples.round_trips_us.size(); ++round) {
                const auto line = [&](std::string_view measure, double value) {
                    out += formatted("{},{},{},{},{},{:.3f}\n", link.endpoint, link.transport_text(), samples.bytes, round,
                                     measure, value);
                };
                for (const double trip : samples.round_trips_us[round]) {
                    line("round_trip_us", trip);
                }
                line("to_server_bytes_per_second", samples.to_server[round]);
                line("from_server_bytes_per_second", samples.from_server[round]);
            }
        }
    }
    return out;
}

}  // namespace caravan::bench
