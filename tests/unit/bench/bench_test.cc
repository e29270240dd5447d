#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "bench/child.h"
#include "bench/compare.h"
#include "bench/page_cache.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/rounds.h"
#include "bench/statistics.h"
#include "bench/table.h"

namespace caravan::bench {
namespace {

using Json = nlohmann::json;

Run run_of(uint32_t round, double load_s, std::vector<uint64_t> prompt_ns, std::vector<uint64_t> generate_ns) {
    return {.round = round,
            .load_s = load_s,
            .tests = {{"pp10", 10, false, std::move(prompt_ns)}, {"tg4", 4, true, std::move(generate_ns)}}};
}

// Caravan, stock (whose second round failed), local: per token 100 and 200, 300, 50 and 80 µs.
std::vector<Measured> three_arrangements() {
    return {{{Kind::caravan, {"a:1"}}, {run_of(0, 2, {1000}, {400'000}), run_of(1, 4, {1000}, {800'000})}, ""},
            {{Kind::stock, {"a:1"}}, {run_of(0, 3, {2000}, {1'200'000})}, "it ended"},
            {{Kind::local, {}}, {run_of(0, 1, {1000}, {200'000}), run_of(1, 1, {500}, {320'000})}, ""}};
}

TEST(BenchStatistics, MedianOfOddEvenAndNoValues) {
    const Summary odd = summarize({3, 1, 2});
    EXPECT_EQ(odd.median, 2);
    EXPECT_EQ(odd.min, 1);
    EXPECT_EQ(odd.max, 3);
    EXPECT_EQ(odd.count, 3u);
    EXPECT_EQ(summarize({4, 1}).median, 2.5);
    EXPECT_EQ(summarize({}).count, 0u);
}

TEST(BenchStatistics, PercentileIsOneOfTheValues) {
    std::vector<double> hundred;
    for (int i = 1; i <= 100; ++i) {
        hundred.push_back(i);
    }
    EXPECT_EQ(percentile(hundred, 50), 50);
    EXPECT_EQ(percentile(hundred, 99), 99);
    EXPECT_EQ(percentile(hundred, 100), 100);
    const std::vector<double> two{1, 2};
    EXPECT_EQ(percentile(two, 50), 1);
    EXPECT_EQ(percentile(two, 51), 2);
    EXPECT_EQ(percentile(two, 0), 1);
}

TEST(BenchRounds, EachRoundBeginsWithTheNextIndexAndHasAll) {
    for (size_t round = 0; round < 6; ++round) {
        EXPECT_EQ(turn(round, 0, 3), round % 3);
        EXPECT_EQ(turn(round, 0, 3) + turn(round, 1, 3) + turn(round, 2, 3), 3u);
    }
}

TEST(BenchCompare, ComparesWithinRounds) {
    const auto comparisons = compare(three_arrangements());
    const Row & ours = comparisons[0].rows[1];
    EXPECT_EQ(ours.test, "tg4");
    EXPECT_DOUBLE_EQ(ours.tokens_per_second.min, 5000);
    EXPECT_DOUBLE_EQ(ours.tokens_per_second.max, 10000);
    EXPECT_DOUBLE_EQ(ours.ratio.max, 1);
    EXPECT_DOUBLE_EQ(ours.overhead_us.min, 50);
    EXPECT_DOUBLE_EQ(ours.overhead_us.max, 120);
    const Row & local = comparisons[2].rows[1];
    EXPECT_DOUBLE_EQ(local.ratio.min, 2);
    EXPECT_DOUBLE_EQ(local.ratio.max, 2.5);
    EXPECT_EQ(local.overhead_us.count, 0u);
    EXPECT_DOUBLE_EQ(comparisons[2].load_ratio.min, 0.25);
}

TEST(BenchCompare, SkipsFailedRounds) {
    const auto comparisons = compare(three_arrangements());
    const Row & stock = comparisons[1].rows[1];
    EXPECT_EQ(stock.ratio.count, 1u);
    EXPECT_DOUBLE_EQ(stock.ratio.median, 1.0 / 3);
    EXPECT_DOUBLE_EQ(stock.overhead_us.median, 250);
}

TEST(BenchCompare, SeparatesTheFirstLoadFromLaterOnes) {
    auto measured = three_arrangements();
    measured[0].runs[0].load_from_cache = 0.0;
    measured[0].runs[1].load_from_cache = 0.75;
    measured[0].runs[1].traffic = Traffic{.sends = 2};
    const auto comparisons = compare(measured);
    EXPECT_DOUBLE_EQ(comparisons[0].first_load.seconds.median, 2);
    EXPECT_DOUBLE_EQ(comparisons[0].first_load.from_cache.median, 0);
    EXPECT_DOUBLE_EQ(comparisons[0].later_loads.seconds.median, 4);
    EXPECT_DOUBLE_EQ(comparisons[0].later_loads.from_cache.median, 0.75);
    EXPECT_EQ(comparisons[1].later_loads.seconds.count, 0u);
    EXPECT_EQ(comparisons[1].first_load.from_cache.count, 0u);
    EXPECT_EQ(comparisons[0].traffic.sends.count, 1u);
    EXPECT_DOUBLE_EQ(comparisons[0].traffic.sends.median, 2);
    EXPECT_EQ(comparisons[0].traffic.client.count, 0u);
}

TEST(BenchCompare, OnlyGeneratedTokensHaveAnOverhead) {
    EXPECT_EQ(compare(three_arrangements())[0].rows[0].overhead_us.count, 0u);
}

constexpr const char * llama_bench_output = R"([
 {"build_commit": "abc", "build_number": 7, "cpu_info": "c", "gpu_info": "", "model_type": "llama", "model_size": 5,
  "model_n_params": 6, "n_prompt": 16, "n_gen": 0, "n_depth": 0, "samples_ns": [2000, 1000, 9000], "new": 1},
 {"build_commit": "abc", "build_number": 7, "model_type": "llama", "model_size": 5, "model_n_params": 6,
  "n_prompt": 0, "n_gen": 8, "n_depth": 32, "samples_ns": [4000]}])";

TEST(BenchLlama, ParsesOutput) {
    ModelFacts facts;
    const auto tests = parse_tests(llama_bench_output, &facts);
    ASSERT_TRUE(tests) << tests.error().text;
    ASSERT_EQ(tests->size(), 2u);
    EXPECT_EQ((*tests)[0].name, "pp16");
    EXPECT_DOUBLE_EQ((*tests)[0].tokens_per_second(), 16 * 1e9 / 2000);
    EXPECT_EQ((*tests)[1].name, "tg8@d32");
    EXPECT_TRUE((*tests)[1].generates);
    EXPECT_EQ(facts.bytes, 5u);
    EXPECT_EQ(facts.build, "abc (7)");
}

TEST(BenchLlama, RefusesTestsThatCannotBeCompared) {
    const std::string row = R"({"model_type": "", "model_size": 1, "model_n_params": 1, "n_prompt": 1, "n_gen": 0,)";
    const std::string good = row + R"("samples_ns": [1]})";
    EXPECT_TRUE(parse_tests("[" + good + "]", nullptr));
    EXPECT_FALSE(parse_tests("[" + good + "," + good + "]", nullptr)) << "the same test twice";
    EXPECT_FALSE(parse_tests("[" + row + R"("samples_ns": []}])", nullptr));
    EXPECT_FALSE(parse_tests("[" + row + R"("samples_ns": [0]}])", nullptr));
    EXPECT_FALSE(parse_tests("[]", nullptr));
    EXPECT_FALSE(parse_tests("", nullptr));
    EXPECT_FALSE(parse_tests("[{}]", nullptr));
}

TEST(BenchLlama, CountsAreWholeNumbersThatFit) {
    const auto output = [](const char * key, const char * value) {
        Json row = Json::parse(llama_bench_output)[0];
        row[key] = Json::parse(value);
        return Json::array({row}).dump();
    };
    ModelFacts facts;
    EXPECT_TRUE(parse_tests(output("n_prompt", "4294967295"), &facts));
    for (const char * key : {"n_prompt", "n_gen", "n_depth", "model_size", "model_n_params"}) {
        for (const char * value : {"1e30", "-1e30", "-1", "1.5", "18446744073709551616", "\"1\"", "[]"}) {
            EXPECT_FALSE(parse_tests(output(key, value), &facts)) << key << " " << value;
        }
    }
    EXPECT_FALSE(parse_tests(output("n_prompt", "4294967296"), &facts));
    EXPECT_FALSE(parse_tests(output("samples_ns", "[1e30]"), &facts));
    EXPECT_FALSE(parse_tests(output("samples_ns", "[[1]]"), &facts));
}

TEST(BenchLlama, LoadEndsAtTheSecondProgressLine) {
    const TimePoint start{};
    const auto at = [&](int ms, const char * text) { return Child::Line{start + milliseconds(ms), text}; };
    const auto load = load_seconds({at(0, "load_backend: something"), at(100, "llama-bench: benchmark 1/2: starting"),
                                    at(150, "a warning"), at(350, "llama-bench: benchmark 1/2: warmup prompt run"),
                                    at(900, "llama-bench: benchmark 1/2: prompt run 1/3")});
    ASSERT_TRUE(load);
    EXPECT_DOUBLE_EQ(*load, 0.25);
    EXPECT_FALSE(load_seconds({at(0, "llama-bench: benchmark 1/2: starting")}));
}

TEST(BenchArrangement, EachHasItsPluginAndDevices) {
    const Settings settings{
        .program = "/bin/llama-bench", .plugin = "/p.so", .model = "m", .threads = 3, .more = {"-fa", "on"}};
    const Arrangement rdma{Kind::rdma, {"a:1", "b:2"}}, stock{Kind::stock, {"a:1"}}, local{Kind::local, {}};
    EXPECT_EQ(environment_of(rdma, settings).at("GGML_BACKEND_PATH"), "/p.so");
    EXPECT_EQ(environment_of(rdma, settings).at("GGML_RPC_TRANSPORT"), "rdma");
    EXPECT_EQ(environment_of(stock, settings).at("GGML_BACKEND_PATH"), "");
    EXPECT_EQ(environment_of(stock, settings).at("GGML_RPC_SERVERS"), "");
    const auto words = [&](const Arrangement & arrangement, const Settings & settings) {
        std::string out;
        for (const std::string & word : command_of(arrangement, settings)) {
            out += word + " ";
        }
        return out;
    };
    EXPECT_TRUE(words(rdma, settings).contains("--rpc a:1,b:2 -ngl 999 -fa on ")) << words(rdma, settings);
    EXPECT_TRUE(words(rdma, settings).contains(" -t 3 "));
    EXPECT_TRUE(words(local, settings).contains("-dev none -ngl 0 ")) << words(local, settings);
    EXPECT_FALSE(words(local, settings).contains("--rpc"));
    Settings with_gpu = settings;
    with_gpu.local_device = "CUDA0";
    EXPECT_TRUE(words(local, with_gpu).contains("-dev CUDA0 -ngl 999 ")) << words(local, with_gpu);
    const Arrangement tensor{Kind::tensor, {"a:1", "b:2"}}, stock_tensor{Kind::stock_tensor, {"a:1", "b:2"}};
    EXPECT_EQ(environment_of(tensor, settings).at("GGML_BACKEND_PATH"), "/p.so");
    EXPECT_EQ(environment_of(stock_tensor, settings).at("GGML_BACKEND_PATH"), "");
    EXPECT_TRUE(words(tensor, settings).contains("-ngl 999 -sm tensor -fa on ")) << words(tensor, settings);
    Settings plain = settings;
    plain.more.clear();
    EXPECT_TRUE(words(stock_tensor, plain).ends_with("-sm tensor -fa 1 ")) << words(stock_tensor, plain);
    for (const char * name : {"caravan", "one", "tensor", "tcp", "rdma", "stock", "stock-tensor", "local"}) {
        EXPECT_EQ(name_of(parse_kind(name).value()), name);
    }
    EXPECT_FALSE(parse_kind("Stock"));
}

TEST(BenchChild, ReportsOutputAndExitCode) {
    const auto child = run_child({"/bin/sh", "-c", "echo out; echo one >&2; printf two >&2; echo $VALUE; exit 3"},
                                 {{"VALUE", "given"}}, Clock::now() + seconds(30));
    ASSERT_TRUE(child) << child.error().text;
    EXPECT_EQ(child->out, "out\ngiven\n");
    ASSERT_EQ(child->err.size(), 2u);
    EXPECT_EQ(child->last_lines(), "one | two");
    EXPECT_EQ(child->exit_text(), "exit code 3");
    EXPECT_FALSE(child->succeeded());
}

TEST(BenchChild, UnsetsAVariable) {
    ::setenv("CARAVAN_BENCH_TEST", "here", 1);
    const auto child =
        run_child({"/bin/sh", "-c", "echo ${CARAVAN_BENCH_TEST-unset}"}, {{"CARAVAN_BENCH_TEST", ""}},
                  Clock::now() + seconds(30));
    ::unsetenv("CARAVAN_BENCH_TEST");
    ASSERT_TRUE(child);
    EXPECT_EQ(child->out, "unset\n");
}

TEST(BenchChild, IsKilledAtItsDeadline) {
    const TimePoint start = Clock::now();
    const auto child = run_child({"/bin/sh", "-c", "exec sleep 60"}, {}, start + milliseconds(50));
    ASSERT_FALSE(child);
    EXPECT_EQ(child.error().code, Errc::timed_out);
    EXPECT_LT(Clock::now() - start, seconds(30));
    EXPECT_FALSE(run_child({"/no/such/program"}, {}, Clock::now() + seconds(30)));
}

TEST(BenchPageCache, ListsThePartsOfASplitModel) {
    EXPECT_EQ(files_of("/m/a.gguf"), std::vector<std::string>{"/m/a.gguf"});
    EXPECT_EQ(files_of("/m/a-00001-of-00002.gguf"),
              (std::vector<std::string>{"/m/a-00001-of-00002.gguf", "/m/a-00002-of-00002.gguf"}));
    for (const std::string whole : {"", "-00002.gguf", "a-1-of-2.gguf", "a-00001-of-0000x.gguf", "a-00001-of-00002.gguf2"}) {
        EXPECT_EQ(files_of(whole), std::vector<std::string>{whole});
    }
    EXPECT_EQ(files_of("-00001-of-00001.gguf"), std::vector<std::string>{"-00001-of-00001.gguf"});
    EXPECT_FALSE(drop_from_memory("/no/such/model.gguf"));
}

TEST(BenchTable, AlignsColumnsOfUtf8Text) {
    Table table;
    table.add_column("µs", false);
    table.add_column("n", true);
    table.add_row({"four", "1"});
    table.add_row({"µ", "1000"});
    EXPECT_EQ(table.text(), "| µs   |    n |\n| ---- | ---: |\n| four |    1 |\n| µ    | 1000 |\n");
    EXPECT_EQ(size_text(64), "64 B");
    EXPECT_EQ(size_text(16 << 20), "16 MiB");
    EXPECT_EQ(size_text(5583872), "5.33 MiB");
}

ModelBench a_model_bench() {
    ModelBench bench{.rounds = 2};
    bench.facts = {.type = "llama <& \"Q8\"", .bytes = 5583872, .parameters = 5'250'000};
    bench.measured = three_arrangements();
    return bench;
}

TEST(BenchReport, JsonHasRunsAndDerivedValues) {
    const Json document = Json::parse(json(a_model_bench(), "rpc-bench"));
    const Json & stock = document["arrangements"][1];
    EXPECT_EQ(stock["name"], "stock");
    EXPECT_EQ(stock["failure"], "it ended");
    EXPECT_EQ(stock["runs"].size(), 1u);
    EXPECT_EQ(stock["runs"][0]["tests"][1]["samples_ns"][0], 1'200'000);
    EXPECT_DOUBLE_EQ(stock["tests"][1]["overhead_us_per_token"]["median"], 250);
    EXPECT_TRUE(document["arrangements"][2]["tests"][1]["overhead_us_per_token"].is_null());
    EXPECT_TRUE(document["arrangements"][0]["failure"].is_null());
}

TEST(BenchReport, TableHasARowForEachTestAndFailures) {
    const std::string text = markdown(a_model_bench());
    EXPECT_TRUE(text.contains(" 3333.33 (3333.33-3333.33) |     0.33 (0.33-0.33) |                 250 (250-250) |")) << text;
    EXPECT_TRUE(text.contains("stock failed: it ended")) << text;
    EXPECT_TRUE(text.contains("| stock               |         n/a |   n/a |")) << text;
    EXPECT_EQ(std::ranges::count(csv(a_model_bench()), '\n'), 1 + 5 * 3);
}

// Noise: in the second round local was slower.
TEST(BenchReport, MarksDifferencesBelowTheNoise) {
    ModelBench bench = a_model_bench();
    bench.settings.generate = 4;
    bench.measured[2].runs[1].tests[1].ns = {4'000'000};
    bench.measured[0].runs[0].traffic = Traffic{.us = -3, .shares = TimeShares{.client = 5, .queue = -8}};
    const std::string text = markdown(bench);
    EXPECT_TRUE(text.contains(" below noise (-800 to 50) |")) << text;
    EXPECT_TRUE(text.contains(" below noise (-3 to -3) |")) << text;
    EXPECT_TRUE(text.contains(" below noise (-8 to -8) |")) << text;
    EXPECT_TRUE(text.contains("\nbelow noise: ")) << text;
    EXPECT_FALSE(text.contains("-3 (")) << text;
    EXPECT_EQ(Json::parse(json(bench, ""))["arrangements"][0]["tests"][1]["overhead_is_below_noise"], true);
    EXPECT_FALSE(markdown(a_model_bench()).contains("below noise"));
}

TEST(BenchPlot, LinkPlotNamesItsAxes) {
    LinkBench bench;
    bench.links = {{.endpoint = "a:1",
                    .transport = net::TransportKind::tcp,
                    .sizes = {{.bytes = 64, .round_trips_us = {{3, 1}}, .to_server = {1e6}, .from_server = {1e6}}}}};
    const std::string picture = plot(bench);
    const size_t label = picture.find(">message size</text>");
    ASSERT_NE(label, picture.npos) << picture;
    EXPECT_NE(picture.find(">message size</text>", label + 1), picture.npos) << picture;
    EXPECT_TRUE(picture.contains("round trip, µs") && picture.contains("bandwidth, MB/s"));
}

TEST(BenchReport, FailedLinkKeepsItsMeasurements) {
    LinkBench bench;
    bench.links = {{.endpoint = "a:1",
                    .transport = net::TransportKind::tcp,
                    .failure = "it ended",
                    .sizes = {{.bytes = 64, .round_trips_us = {{3, 1}, {2}}, .to_server = {1e6, 3e6},
                               .from_server = {1e6, 1e6}},
                              {.bytes = 256}}},
                   {.endpoint = "b:1", .failure = "refused"}};
    const Json document = Json::parse(json(bench, "rpc-bench"));
    const Json & sizes = document["links"][0]["sizes"];
    ASSERT_EQ(sizes.size(), 1u);
    EXPECT_EQ(sizes[0]["p50_us"], 2);
    EXPECT_EQ(sizes[0]["p99_us"], 3);
    EXPECT_EQ(sizes[0]["to_server_bytes_per_second"]["median"], 2e6);
    EXPECT_EQ(sizes[0]["rounds"]["round_trips_us"], Json::parse("[[3, 1], [2]]"));
    EXPECT_TRUE(document["links"][1]["transport"].is_null());
    EXPECT_EQ(std::ranges::count(csv(bench), '\n'), 1 + 3 + 4);
    EXPECT_TRUE(markdown(bench).contains("b:1 failed: refused"));
}

TEST(BenchPlot, IsWellFormedAndEscapesNames) {
    const std::string picture = plot(a_model_bench());
    EXPECT_TRUE(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    EXPECT_TRUE(picture.contains("llama &lt;&amp;")) << picture;
    EXPECT_TRUE(picture.contains("prefers-color-scheme: dark"));
    ModelBench nothing;
    nothing.measured = {{{Kind::caravan, {"a:1"}}, {}, "it ended"}};
    EXPECT_TRUE(plot(nothing).contains("nothing was measured"));
    EXPECT_TRUE(plot(LinkBench{}).contains("nothing was measured"));
    EXPECT_FALSE(markdown(nothing).empty());
}

TEST(BenchPlot, RoundsUpTo125Steps) {
    EXPECT_DOUBLE_EQ(round_up(1), 1);
    EXPECT_DOUBLE_EQ(round_up(1.1), 2);
    EXPECT_DOUBLE_EQ(round_up(430), 500);
    EXPECT_DOUBLE_EQ(round_up(0.06), 0.1);
}

// Two rounds of two ranks; the larger size has no measurement.
ReductionBench two_ranks() {
    return {.rounds = 2,
            .endpoints = {"a:1", "b:2"},
            .transports = "tcp",
            .failure = "",
            .sizes = {{4096, wire::Algorithm::scatter, {{{10, 20}, {30, 40}}, {{50, 60}, {70, 80}}}}, {65536, {}, {}}}};
}

TEST(BenchReductions, TimeOfASumIsTheMeanOverTheRanks) {
    const auto rows = rows_of(two_ranks());
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0].sums, 4u);
    EXPECT_EQ(rows[0].algorithm, "scatter");
    EXPECT_EQ(rows[0].p50_us, 30) << "the second of 20, 30, 60 and 70: means over the ranks";
    EXPECT_EQ(rows[0].p10_us, 20);
    EXPECT_EQ(rows[0].p90_us, 70);
}

TEST(BenchReductions, ReportsHaveTheFailureToo) {
    ReductionBench bench = two_ranks();
    EXPECT_TRUE(markdown(bench).contains("|  4 KiB | scatter   |    4 |    30.0 |"));
    EXPECT_TRUE(markdown(bench).contains("2 ranks, linked over tcp;"));
    EXPECT_TRUE(csv(bench).contains("\n2,tcp,4096,scatter,1,0,1,60.000\n"));
    const Json document = Json::parse(json(bench, "p"));
    EXPECT_EQ(document["kind"], "all_reduce");
    EXPECT_TRUE(document["failure"].is_null());
    ASSERT_EQ(document["sizes"].size(), 1u);
    EXPECT_EQ(document["sizes"][0]["us"][1][1][1], 80);
    bench.failure = "b:2 is lost";
    bench.sizes[0].algorithm.reset();
    EXPECT_TRUE(bench.any_failed());
    EXPECT_TRUE(markdown(bench).contains("the measurement failed: b:2 is lost"));
    EXPECT_TRUE(markdown(bench).contains("| n/a "));
    EXPECT_TRUE(Json::parse(json(bench, "p"))["sizes"][0]["algorithm"].is_null());
    bench.sizes.clear();
    EXPECT_EQ(markdown(bench), "the measurement failed: b:2 is lost\n");
}

TEST(BenchReductions, FindAWrongSum) {
    constexpr size_t ranks = 16;
    std::vector<float> sums(5000), terms(sums.size());
    for (size_t rank = 0; rank < ranks; ++rank) {
        fill_terms(terms, rank, 77);
        for (size_t i = 0; i < sums.size(); ++i) {
            sums[i] += terms[i];
        }
    }
    EXPECT_EQ(find_wrong_sum(sums, ranks, 77), std::nullopt);
    EXPECT_EQ(find_wrong_sum(sums, ranks, 78), 0u) << "the sum of other terms";
    EXPECT_EQ(find_wrong_sum(sums, ranks - 1, 77), 0u) << "a term too many";
    sums[4321] += 1;
    EXPECT_EQ(find_wrong_sum(sums, ranks, 77), 4321u);
}

}  // namespace
}  // namespace caravan::bench
