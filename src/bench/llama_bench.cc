#include "bench/llama_bench.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "bench/statistics.h"

namespace caravan::bench {
namespace {

using Json = nlohmann::json;

constexpr std::string_view progress_prefix = "llama-bench: benchmark ";

}  // namespace

double Test::tokens_per_second() const {
    const Summary time = summarize(std::vector<double>(ns.begin(), ns.end()));
    return tokens * 1e9 / time.median;
}

Result<std::vector<Test>> parse_tests(const std::string & text, ModelFacts * facts) {
    std::vector<Test> out;
    try {
        for (const Json & row : Json::parse(text)) {
            const auto prompt = row.at("n_prompt").get<uint32_t>(), generate = row.at("n_gen").get<uint32_t>();
            const auto depth = row.value("n_depth", 0u);
            Test test;
            test.generates = prompt == 0;
            test.tokens = prompt + generate;
            test.name = generate == 0 ? std::format("pp{}", prompt)
                        : prompt == 0 ? std::format("tg{}", generate)
                                      : std::format("pp{}+tg{}", prompt, generate);
            test.name += depth == 0 ? "" : std::format("@d{}", depth);
            test.ns = row.at("samples_ns").get<std::vector<uint64_t>>();
            if (test.tokens == 0 || test.ns.empty() || std::ranges::contains(test.ns, 0u)) {
                return fail(Errc::protocol, "llama-bench measured nothing for {}", test.name);
            }
            if (std::ranges::contains(out, test.name, &Test::name)) {
                return fail(Errc::invalid_argument, "{} was run twice: give one value to each option of llama-bench",
                            test.name);
            }
            out.push_back(std::move(test));
            if (facts != nullptr) {
                *facts = {.type = row.at("model_type"),
                          .cpu = row.value("cpu_info", ""),
                          .gpu = row.value("gpu_info", ""),
                          .build = std::format("{} ({})", row.value("build_commit", ""), row.value("build_number", 0)),
                          .bytes = row.at("model_size"),
                          .parameters = row.at("model_n_params")};
            }
        }
    } catch (const Json::exception & error) {
        return fail(Errc::protocol, "llama-bench's output is not understood: {}", error.what());
    }
    if (out.empty()) {
        return fail(Errc::protocol, "llama-bench printed no result");
    }
    return out;
}

// It says "starting" before it opens the file, and speaks again when the model and the context are there.
Result<double> load_seconds(const std::vector<Child::Line> & progress) {
    std::vector<TimePoint> times;
    for (const Child::Line & line : progress) {
        if (line.text.starts_with(progress_prefix)) {
            times.push_back(line.at);
        }
    }
    if (times.size() < 2) {
        return fail(Errc::protocol, "llama-bench does not tell its progress");
    }
    return std::chrono::duration<double>(times[1] - times[0]).count();
}

Result<Run> run_once(const Arrangement & arrangement, const Settings & settings, TimePoint deadline, ModelFacts * facts) {
    const auto child = run_child(command_of(arrangement, settings), environment_of(arrangement, settings), deadline);
    if (!child) {
        return std::unexpected(child.error());
    }
    if (!child->succeeded()) {
        return fail(Errc::unavailable, "llama-bench ended with {}: {}", child->how_it_ended(), child->last_words());
    }
    auto tests = parse_tests(child->out, facts);
    if (!tests) {
        return std::unexpected(tests.error());
    }
    const auto load = load_seconds(child->err);
    if (!load) {
        return std::unexpected(load.error());
    }
    return Run{.load_s = *load, .tests = std::move(*tests)};
}

}  // namespace caravan::bench
