#include "bench/model_bench.h"

#include <algorithm>

#include "base/formatted.h"
#include "bench/installed.h"
#include "bench/page_cache.h"

namespace caravan::bench {
namespace {

constexpr seconds check_limit{60};

std::string summary(const Run & run) {
    std::string out;
    for (const Test & test : run.tests) {
        out += formatted("{} {:.2f} t/s, ", test.name, test.tokens_per_second());
    }
    return out + formatted("loaded in {:.2f} s", run.load_s);
}

Result<Run> run_one(ModelBench & bench, const Arrangement & arrangement, const Progress & progress) {
    if (bench.cold) {
        if (auto dropped = drop_from_memory(bench.settings.model); !dropped) {
            return std::unexpected(dropped.error());
        }
    }
    auto run = run_once(arrangement, bench.settings, Clock::now() + bench.run_limit, &bench.facts);
    if (run && is_ours(arrangement.kind) && bench.settings.generate > 0) {
        auto traffic = measure_traffic(arrangement, bench.settings, bench.run_limit);
        if (!traffic) {
            progress(formatted("{}: cannot measure the traffic of a token: {}", arrangement.name(), traffic.error().text));
        } else {
            run->traffic = *traffic;
        }
    }
    return run;
}

}  // namespace

bool ModelBench::any_failed() const {
    return std::ranges::any_of(measured, [](const Measured & m) { return !m.failure.empty(); });
}

void run(ModelBench & bench, const std::vector<Arrangement> & arrangements, const Progress & progress) {
    const auto failed = [&](Measured & measured, const Error & error) {
        measured.failure = error.text;
        progress(formatted("{} failed: {}", measured.arrangement.name(), error.text));
    };
    for (const Arrangement & arrangement : arrangements) {
        Measured & measured = bench.measured.emplace_back(Measured{.arrangement = arrangement});
        if (auto checked = check(arrangement, bench.settings, Clock::now() + check_limit); !checked) {
            failed(measured, checked.error());
        }
    }
    for (uint32_t round = 0; round < bench.rounds; ++round) {
        for (uint32_t position = 0; position < bench.measured.size(); ++position) {
            Measured & measured = bench.measured[turn(round, position, bench.measured.size())];
            if (!measured.failure.empty()) {
                continue;
            }
            auto run = run_one(bench, measured.arrangement, progress);
            if (!run) {
                failed(measured, run.error());
                continue;
            }
            run->round = round;
            run->position = position;
            progress(formatted("round {} of {}: {}: {}", round + 1, bench.rounds, measured.arrangement.name(), summary(*run)));
            measured.runs.push_back(std::move(*run));
        }
    }
}

}  // namespace caravan::bench
