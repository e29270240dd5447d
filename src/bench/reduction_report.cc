#include <algorithm>

#include "base/counted.h"
#include "base/formatted.h"
#include "bench/report.h"
#include "bench/table.h"

namespace caravan::bench {

std::vector<ReductionRow> rows_of(const ReductionBench & bench) {
    std::vector<ReductionRow> out;
    for (const ReductionSamples & samples : bench.sizes) {
        std::vector<double> all;
        for (const auto & round : samples.us) {
            for (size_t sum = 0; sum < round.front().size(); ++sum) {
                double of_ranks = 0;
                for (const auto & rank : round) {
                    of_ranks += rank[sum];
                }
                all.push_back(of_ranks / static_cast<double>(round.size()));
            }
        }
        if (all.empty()) {
            continue;
        }
        std::ranges::sort(all);
        out.push_back({samples.bytes, samples.algorithm ? wire::text_of(*samples.algorithm) : "", all.size(),
                       percentile(all, 50), percentile(all, 10), percentile(all, 90)});
    }
    return out;
}

std::string markdown(const ReductionBench & bench) {
    Table table;
    table.add_column("tensor", true);
    table.add_column("algorithm", false);
    for (const char * header : {"sums", "p50, µs", "p10, µs", "p90, µs"}) {
        table.add_column(header, true);
    }
    const auto rows = rows_of(bench);
    for (const ReductionRow & row : rows) {
        table.add_row({size_text(row.bytes), row.algorithm.empty() ? "n/a" : std::string(row.algorithm),
                       std::to_string(row.sums), formatted("{:.1f}", row.p50_us), formatted("{:.1f}", row.p10_us),
                       formatted("{:.1f}", row.p90_us)});
    }
    std::string out = rows.empty() ? "" : table.text() + "\n";
    if (!bench.failure.empty()) {
        out += formatted("the measurement failed: {}\n", bench.failure);
    }
    if (!rows.empty()) {
        out += formatted("{}, linked over {}; {}; every sum was right on every rank\n",
                         counted(bench.endpoints.size(), "rank"), bench.transports, counted(bench.rounds, "round"));
    }
    return out;
}

std::string csv(const ReductionBench & bench) {
    std::string out = "ranks,transports,bytes,algorithm,round,rank,sum,us\n";
    for (const ReductionSamples & samples : bench.sizes) {
        for (size_t round = 0; round < samples.us.size(); ++round) {
            for (size_t rank = 0; rank < samples.us[round].size(); ++rank) {
                for (size_t sum = 0; sum < samples.us[round][rank].size(); ++sum) {
                    out += formatted("{},{},{},{},{},{},{},{:.3f}\n", bench.endpoints.size(), bench.transports, samples.bytes,
                                     samples.algorithm ? wire::text_of(*samples.algorithm) : "", round, rank, sum,
                                     samples.us[round][rank][sum]);
                }
            }
        }
    }
    return out;
}

}  // namespace caravan::bench
