#include "bench/compare.h"

#include <algorithm>
#include <span>

namespace caravan::bench {
namespace {

const Run * run_of(const Measured & measured, uint32_t round) {
    const auto found = std::ranges::find(measured.runs, round, &Run::round);
    return found == measured.runs.end() ? nullptr : &*found;
}

const Test * test_of(const Run * run, const std::string & name) {
    if (run == nullptr) {
        return nullptr;
    }
    const auto found = std::ranges::find(run->tests, name, &Test::name);
    return found == run->tests.end() ? nullptr : &*found;
}

Row row_of(const Test & test, const Measured & mine, const Measured & first, const Measured * local) {
    std::vector<double> rates, ratios, overheads;
    for (const Run & run : mine.runs) {
        const Test * here = test_of(&run, test.name);
        if (here == nullptr) {
            continue;
        }
        rates.push_back(here->tokens_per_second());
        if (const Test * there = test_of(run_of(first, run.round), test.name)) {
            ratios.push_back(here->tokens_per_second() / there->tokens_per_second());
        }
        if (const Test * there = local == nullptr ? nullptr : test_of(run_of(*local, run.round), test.name)) {
            overheads.push_back(here->us_per_token() - there->us_per_token());
        }
    }
    const bool has_overhead = test.generates && &mine != local;
    return {test.name, test.generates, summarize(rates), summarize(ratios),
            has_overhead ? summarize(overheads) : Summary{}};
}

LoadRow load_row(std::span<const Run> runs) {
    std::vector<double> times, shares;
    for (const Run & run : runs) {
        times.push_back(run.load_s);
        if (run.load_from_cache) {
            shares.push_back(*run.load_from_cache);
        }
    }
    return {summarize(times), summarize(shares)};
}

TrafficRow traffic_row(const std::vector<Run> & runs) {
    const auto summary = [&](double Traffic::*what) {
        std::vector<double> values;
        for (const Run & run : runs) {
            if (run.traffic) {
                values.push_back((*run.traffic).*what);
            }
        }
        return summarize(values);
    };
    const auto share = [&](double TimeShares::*what) {
        std::vector<double> values;
        for (const Run & run : runs) {
            if (run.traffic && run.traffic->shares) {
                values.push_back((*run.traffic->shares).*what);
            }
        }
        return summarize(values);
    };
    return {.round_trips = summary(&Traffic::round_trips),
            .sends = summary(&Traffic::sends),
            .bytes_up = summary(&Traffic::bytes_up),
            .bytes_down = summary(&Traffic::bytes_down),
            .us = summary(&Traffic::us),
            .client = share(&TimeShares::client),
            .compute = share(&TimeShares::compute),
            .wire = share(&TimeShares::wire),
            .queue = share(&TimeShares::queue)};
}

}  // namespace

std::vector<Comparison> compare(const std::vector<Measured> & measured) {
    const auto found = std::ranges::find(measured, Kind::local, [](const Measured & m) { return m.arrangement.kind; });
    const Measured * local = found == measured.end() ? nullptr : &*found;
    std::vector<Comparison> out;
    for (const Measured & mine : measured) {
        Comparison & comparison = out.emplace_back();
        std::vector<double> loads, ratios;
        for (const Run & run : mine.runs) {
            loads.push_back(run.load_s);
            if (const Run * there = run_of(measured.front(), run.round); there != nullptr && there->load_s > 0) {
                ratios.push_back(run.load_s / there->load_s);
            }
        }
        comparison.load_s = summarize(loads);
        comparison.load_ratio = summarize(ratios);
        const std::span<const Run> runs(mine.runs);
        comparison.first_load = load_row(runs.first(std::min<size_t>(runs.size(), 1)));
        comparison.later_loads = load_row(runs.subspan(std::min<size_t>(runs.size(), 1)));
        comparison.traffic = traffic_row(mine.runs);
        for (const Test & test : mine.runs.empty() ? std::vector<Test>{} : mine.runs.front().tests) {
            comparison.rows.push_back(row_of(test, mine, measured.front(), local));
        }
    }
    return out;
}

}  // namespace caravan::bench
