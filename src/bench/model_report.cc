#include <algorithm>

#include "base/counted.h"
#include "base/formatted.h"
#include "bench/report.h"
#include "bench/table.h"

namespace caravan::bench {
namespace {

// "12.34 (11.90-12.50)", with `digits` digits after the point.
std::string spread(const Summary & summary, int digits) {
    return summary.count == 0 ? ""
                              : formatted("{:.{}f} ({:.{}f}-{:.{}f})", summary.median, digits, summary.min, digits,
                                          summary.max, digits);
}

std::string parameters_text(uint64_t parameters) {
    const auto count = static_cast<double>(parameters);
    return count >= 1e9 ? formatted("{:.2f} B", count / 1e9) : formatted("{:.2f} M", count / 1e6);
}

constexpr const char * unknown = "n/a";

std::string or_unknown(const Summary & summary, int digits) {
    return summary.count == 0 ? unknown : spread(summary, digits);
}

// For times that are the difference of two measurements. Sets `any_below_noise` if this one is below the noise.
std::string difference(const Summary & summary, bool & any_below_noise) {
    if (!is_below_noise(summary)) {
        return spread(summary, 0);
    }
    any_below_noise = true;
    return formatted("below noise ({:.0f} to {:.0f})", summary.min, summary.max);
}

std::string percent(const Summary & share) {
    return share.count == 0 ? unknown : formatted("{:.0f} %", 100 * share.median);
}

// The table of loads, with the share of the weights that the servers already had.
std::string loads(const ModelBench & bench, const std::vector<Comparison> & comparisons) {
    Table table;
    table.add_column("arrangement", false);
    table.add_column("first load, s", true);
    table.add_column("from cache", true);
    table.add_column("later loads, s (min-max)", true);
    table.add_column("from cache", true);
    for (size_t i = 0; i < comparisons.size(); ++i) {
        const LoadRow &first = comparisons[i].first_load, &later = comparisons[i].later_loads;
        if (first.seconds.count > 0) {
            table.add_row({std::string(bench.measured[i].arrangement.name()), formatted("{:.3f}", first.seconds.median),
                           percent(first.from_cache), spread(later.seconds, 3),
                           later.seconds.count == 0 ? "" : percent(later.from_cache)});
        }
    }
    return table.text();
}

std::string traffic(const ModelBench & bench, const std::vector<Comparison> & comparisons, bool & any_below_noise) {
    const auto time = [&](const Summary & summary) {
        return summary.count == 0 ? unknown : difference(summary, any_below_noise);
    };
    Table table;
    table.add_column("per generated token", false);
    for (const char * header : {"round trips", "sends", "bytes up", "bytes down", "µs (min-max)", "client", "compute",
                                "wire, est.", "queue, est."}) {
        table.add_column(header, true);
    }
    for (size_t i = 0; i < comparisons.size(); ++i) {
        const Arrangement & arrangement = bench.measured[i].arrangement;
        const TrafficRow & row = comparisons[i].traffic;
        if (!arrangement.endpoints.empty() && comparisons[i].load_s.count > 0) {
            table.add_row({std::string(arrangement.name()), or_unknown(row.round_trips, 2), or_unknown(row.sends, 2),
                           or_unknown(row.bytes_up, 0), or_unknown(row.bytes_down, 0), time(row.us),
                           time(row.client), time(row.compute), time(row.wire), time(row.queue)});
        }
    }
    return table.text();
}

}  // namespace

std::string markdown(const ModelBench & bench) {
    const std::vector<Comparison> comparisons = compare(bench.measured);
    const bool has_local =
        std::ranges::contains(bench.measured, Kind::local, [](const Measured & m) { return m.arrangement.kind; });
    bool any_below_noise = false;
    Table table;
    table.add_column("model", false);
    table.add_column("size", true);
    table.add_column("params", true);
    table.add_column("arrangement", false);
    table.add_column("test", true);
    table.add_column("t/s (min-max)", true);
    table.add_column(formatted("of {} (min-max)", bench.measured.front().arrangement.name()), true);
    if (has_local) {
        table.add_column("µs/token over local (min-max)", true);
    }
    table.add_column(bench.cold ? "cold load, s (min-max)" : "load, s (min-max)", true);
    for (size_t i = 0; i < comparisons.size(); ++i) {
        for (const Row & row : comparisons[i].rows) {
            std::vector<std::string> cells{bench.facts.type,
                                           size_text(bench.facts.bytes),
                                           parameters_text(bench.facts.parameters),
                                           std::string(bench.measured[i].arrangement.name()),
                                           row.test,
                                           spread(row.tokens_per_second, 2),
                                           spread(row.ratio, 2)};
            if (has_local) {
                cells.push_back(difference(row.overhead_us, any_below_noise));
            }
            cells.push_back(spread(comparisons[i].load_s, 3));
            table.add_row(std::move(cells));
        }
    }
    std::string out = table.text() + "\n" + loads(bench, comparisons);
    if (bench.settings.generate > 0) {
        out += "\n" + traffic(bench, comparisons, any_below_noise);
    }
    if (any_below_noise) {
        out += "\nbelow noise: negative in some round, so the difference is smaller than the noise of the machine. Use more "
               "--rounds, a larger -n or a quieter machine\n";
    }
    for (const Measured & measured : bench.measured) {
        if (!measured.failure.empty()) {
            out += formatted("\n{} failed: {}\n", measured.arrangement.name(), measured.failure);
        }
    }
    out += formatted("\nmedians of {}, {} in each; llama-bench {}\n", counted(bench.rounds, "round"),
                     counted(bench.settings.repetitions, "repetition"), bench.facts.build);
    return out;
}

std::string csv(const ModelBench & bench) {
    std::string out = "round,position,arrangement,test,repetition,tokens,ns,tokens_per_second\n";
    for (const Measured & measured : bench.measured) {
        for (const Run & run : measured.runs) {
            const std::string begin = formatted("{},{},{},", run.round, run.position, measured.arrangement.name());
            out += formatted("{}load,0,,{:.0f},\n", begin, run.load_s * 1e9);
            for (const Test & test : run.tests) {
                for (size_t i = 0; i < test.ns.size(); ++i) {
                    out += formatted("{}{},{},{},{},{:.3f}\n", begin, test.name, i, test.tokens, test.ns[i],
                                     test.tokens * 1e9 / static_cast<double>(test.ns[i]));
                }
            }
        }
    }
    return out;
}

}  // namespace caravan::bench
