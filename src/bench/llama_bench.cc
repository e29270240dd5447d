#include "bench/llama_bench.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <string_view>

#include "base/formatted.h"
#include "base/printable.h"
#include "bench/json_count.h"
#include "bench/statistics.h"
#include "bench/temporary_file.h"

namespace caravan::bench {
namespace {

constexpr std::string_view progress_prefix = "llama-bench: benchmark ";

}  // namespace

double Test::tokens_per_second() const {
    const Summary time = summarize(std::vector<double>(ns.begin(), ns.end()));
    return tokens * 1e9 / time.median;
}

Result<std::vector<Test>> parse_tests(const std::string & text, ModelFacts * facts) {
    std::vector<Test> out;
    try {
        for (const nlohmann::json & row : nlohmann::json::parse(text)) {
            const auto prompt = count<uint32_t>(row.at("n_prompt")), generate = count<uint32_t>(row.at("n_gen"));
            const auto depth = count<uint32_t>(row.value("n_depth", nlohmann::json(0u)));
            Test test;
            test.generates = prompt == 0;
            test.tokens = uint64_t{prompt} + generate;
            test.name = generate == 0 ? formatted("pp{}", prompt)
                        : prompt == 0 ? formatted("tg{}", generate)
                                      : formatted("pp{}+tg{}", prompt, generate);
            test.name += depth == 0 ? "" : formatted("@d{}", depth);
            std::ranges::transform(row.at("samples_ns"), std::back_inserter(test.ns), count<uint64_t>);
            if (test.tokens == 0 || test.ns.empty() || std::ranges::contains(test.ns, 0u)) {
                return fail(Errc::protocol, "llama-bench has no measurement of {}", test.name);
            }
            if (std::ranges::contains(out, test.name, &Test::name)) {
                return fail(Errc::invalid_argument, "{} ran twice: give each option of llama-bench one value",
                            test.name);
            }
            out.push_back(std::move(test));
            if (facts != nullptr) {
                *facts = {.type = printable(row.at("model_type").get<std::string>()),
                          .cpu = printable(row.value("cpu_info", "")),
                          .gpu = printable(row.value("gpu_info", "")),
                          .build = printable(formatted("{} ({})", row.value("build_commit", ""),
                                                       row.value("build_number", nlohmann::json(0)).dump())),
                          .bytes = count<uint64_t>(row.at("model_size")),
                          .parameters = count<uint64_t>(row.at("model_n_params"))};
            }
        }
    } catch (const std::exception & error) {
        return fail(Errc::protocol, "cannot parse the output of llama-bench: {}", error.what());
    }
    if (out.empty()) {
        return fail(Errc::protocol, "llama-bench printed no result");
    }
    return out;
}

// It prints "starting" before it opens the file, and the next line when model and context are ready.
Result<double> load_seconds(const std::vector<Child::Line> & progress) {
    std::vector<TimePoint> times;
    for (const Child::Line & line : progress) {
        if (line.text.starts_with(progress_prefix)) {
            times.push_back(line.at);
        }
    }
    if (times.size() < 2) {
        return fail(Errc::protocol, "llama-bench printed no progress");
    }
    return std::chrono::duration<double>(times[1] - times[0]).count();
}

namespace {

struct Ended {
    Child child;
    std::vector<SessionCounts> sessions;  // of Caravan's plug-in
};

Result<Ended> run_llama_bench(const Arrangement & arrangement, const Settings & settings, TimePoint deadline) {
    Environment environment = environment_of(arrangement, settings);
    std::optional<TemporaryFile> stats;
    if (is_ours(arrangement.kind)) {
        auto file = TemporaryFile::make("rpc-bench-stats");
        if (!file) {
            return std::unexpected(file.error());
        }
        stats.emplace(std::move(*file));
        environment["GGML_RPC_STATS"] = stats->path();
    }
    auto child = run_child(command_of(arrangement, settings), environment, deadline);
    if (!child) {
        return std::unexpected(child.error());
    }
    if (!child->succeeded()) {
        return fail(Errc::unavailable, "llama-bench ended with {}: {}", child->exit_text(), child->last_lines());
    }
    auto sessions = stats ? parse_stats(stats->text()) : std::vector<SessionCounts>{};
    if (!sessions) {
        return std::unexpected(sessions.error());
    }
    const auto broken = std::ranges::find_if(*sessions, [](const SessionCounts & of) { return of.replacements > 0; });
    if (broken != sessions->end()) {
        return fail(Errc::io, "the connection to {} broke during the measurement, and was replaced", broken->endpoint);
    }
    return Ended{std::move(*child), std::move(*sessions)};
}

Result<GeneratedTokens> generate(const Arrangement & arrangement, const Settings & settings, TimePoint deadline) {
    auto ended = run_llama_bench(arrangement, settings, deadline);
    if (!ended) {
        return std::unexpected(ended.error());
    }
    const auto tests = parse_tests(ended->child.out, nullptr);
    if (!tests) {
        return std::unexpected(tests.error());
    }
    GeneratedTokens out{.sessions = std::move(ended->sessions)};
    for (const Test & test : *tests) {
        out.tokens += test.tokens * test.ns.size();
        out.seconds += static_cast<double>(std::accumulate(test.ns.begin(), test.ns.end(), uint64_t{0})) / 1e9;
    }
    return out;
}

}  // namespace

Result<Run> run_once(const Arrangement & arrangement, const Settings & settings, TimePoint deadline, ModelFacts * facts) {
    const auto ended = run_llama_bench(arrangement, settings, deadline);
    if (!ended) {
        return std::unexpected(ended.error());
    }
    auto tests = parse_tests(ended->child.out, facts);
    if (!tests) {
        return std::unexpected(tests.error());
    }
    const auto load = load_seconds(ended->child.err);
    if (!load) {
        return std::unexpected(load.error());
    }
    return Run{.load_s = *load, .tests = std::move(*tests), .load_from_cache = share_from_cache(ended->sessions)};
}

Result<Traffic> measure_traffic(const Arrangement & arrangement, const Settings & settings, seconds limit) {
    Settings generating = settings;
    generating.prompt = 0;
    generating.repetitions = 1;
    const auto shorter = generate(arrangement, generating, Clock::now() + limit);
    if (!shorter) {
        return std::unexpected(shorter.error());
    }
    generating.generate *= 2;
    const auto longer = generate(arrangement, generating, Clock::now() + limit);
    if (!longer) {
        return std::unexpected(longer.error());
    }
    return traffic_of(*shorter, *longer,
                      is_split_by_tensors(arrangement.kind) ? Computing::at_once : Computing::in_turn);
}

}  // namespace caravan::bench
