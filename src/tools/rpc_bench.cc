// rpc-bench: measures the network path to RPC servers, or a model in several arrangements.

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "base/printable.h"
#include "bench/installed.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "net/hello.h"
#include "tools/command_line.h"
#include "tools/rpc_bench_help.h"
#include "wire/native.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

struct Options {
    std::vector<std::string> servers, other_servers, against;
    std::string output = "md", plot_file, plugin;
    uint32_t rounds = 5;
    int time_ms = 100, timeout_s = 3600;
    bool cold = false, all_reduce = false;
    bench::Settings settings;
};

// Options that have an effect only with a model, only without one, and not with --allreduce.
struct Scope {
    std::vector<const CLI::Option *> with_model, without_model, with_links;
};

Scope declare(CLI::App & app, Options & options) {
    const auto count = [](const char * example) { return tools::whole_number(0, 1 << 30, example).description(""); };
    const auto some = [](const char * example) { return tools::whole_number(1, 1'000'000, example).description(""); };
    Scope scope;
    const auto for_model = [&](CLI::Option * option) {
        scope.with_model.push_back(option);
        return option;
    };
    app.add_option("--rpc", options.servers, "servers: host:port, [ipv6]:port, host or unix:/path")
        ->option_text("SERVER,...")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->required();
    app.add_option("-m,--model", options.settings.model, "run this GGUF file; without it, measure the network path")
        ->option_text("FILE")
        ->check(CLI::ExistingFile);
    auto * all_reduce = app.add_flag("--allreduce", options.all_reduce,
                                     "measure how long the servers need to add up a tensor among themselves");
    scope.without_model.push_back(all_reduce);
    for_model(app.add_option("--against", options.against,
                             "compare with these arrangements: " + bench::other_names() + " (see below)"))
        ->option_text("ARRANGEMENT,...")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(tools::one_of({"one", "tensor", "tcp", "rdma", "stock", "stock-tensor", "local"}));
    for_model(app.add_option("--against-rpc", options.other_servers, "servers of the stock arrangements [those of --rpc]"))
        ->option_text("SERVER,...")
        ->delimiter(',')
        ->allow_extra_args(false);
    for_model(app.add_option("-p,--n-prompt", options.settings.prompt, "prompt length in tokens; 0: no prompt test"))
        ->check(count("-p 512"))
        ->capture_default_str();
    for_model(app.add_option("-n,--n-gen", options.settings.generate, "tokens to generate; 0: no generation test"))
        ->check(count("-n 128"))
        ->capture_default_str();
    for_model(app.add_option("-r,--repetitions", options.settings.repetitions, "repetitions of each test within a run"))
        ->check(some("-r 3"))
        ->capture_default_str();
    app.add_option("--rounds", options.rounds, "measure everything this many times")
        ->check(some("--rounds 5"))
        ->capture_default_str();
    for_model(app.add_option("-t,--threads", options.settings.threads, "threads of llama-bench [its own default]"))
        ->check(tools::whole_number(1, 4096, "-t 8"));
    for_model(app.add_option("--device", options.settings.device,
                             "devices of the arrangements with RPC, as llama-bench -dev takes them [all]"))
        ->option_text("NAME/...");
    for_model(app.add_option("--local-device", options.settings.local_device, "devices of local [the CPU]"))
        ->option_text("NAME/...");
    for_model(app.add_flag("--cold", options.cold, "drop the model's file from this machine's memory before each run"));
    for_model(app.add_option("--plugin", options.plugin,
                             "use this file as Caravan's plug-in [beside this program; without that, the installed one]"))
        ->option_text("FILE")
        ->check(CLI::ExistingFile);
    auto * time = app.add_option("--time", options.time_ms,
                                 "duration of each measurement of the network path; a round has three for each size")
                      ->type_name("MILLISECONDS")
                      ->check(tools::whole_number(1, 60'000, "--time 100"))
                      ->capture_default_str();
    scope.without_model.push_back(time);
    scope.with_links.push_back(time);
    for_model(app.add_option("--timeout", options.timeout_s, "end a run of llama-bench that takes longer"))
        ->type_name("SECONDS")
        ->check(some("--timeout 600"))
        ->capture_default_str();
    app.add_option("-o,--output", options.output, "form of the report: md, json or csv")
        ->option_text("FORM")
        ->check(tools::one_of({"md", "json", "csv"}))
        ->capture_default_str();
    auto * plot = app.add_option("--plot", options.plot_file, "draw the results into this file (SVG)")->option_text("FILE");
    scope.with_links.push_back(plot);
    return scope;
}

// Normalizes the names of servers.
std::vector<net::Endpoint> endpoints_of(const std::vector<std::string> & names) {
    std::vector<net::Endpoint> out;
    for (const std::string & name : names) {
        const auto endpoint = net::parse_endpoint(name);
        if (!endpoint) {
            throw CLI::ValidationError(endpoint.error().text);
        }
        out.push_back(*endpoint);
    }
    return out;
}

std::vector<std::string> texts_of(const std::vector<net::Endpoint> & endpoints) {
    std::vector<std::string> out;
    for (const net::Endpoint & endpoint : endpoints) {
        out.push_back(endpoint.text());
    }
    return out;
}

std::vector<bench::Arrangement> arrangements_of(const Options & options) {
    const auto servers = texts_of(endpoints_of(options.servers)), others = texts_of(endpoints_of(options.other_servers));
    std::vector<bench::Arrangement> out{{bench::Kind::caravan, servers}};
    for (const std::string & name : options.against) {
        const auto kind = bench::parse_kind(name);
        if (!kind || std::ranges::contains(out, *kind, &bench::Arrangement::kind)) {
            throw CLI::ValidationError("--against: " + (kind ? name + " is given twice" : kind.error().text));
        }
        if (*kind == bench::Kind::rdma && !net::why_no_rdma().empty()) {
            throw CLI::ValidationError("--against rdma: no RDMA: " + net::why_no_rdma());
        }
        out.push_back({*kind, bench::is_stock(*kind) && !others.empty() ? others : servers});
        if (*kind == bench::Kind::local) {
            out.back().endpoints.clear();
        } else if (*kind == bench::Kind::one) {
            out.back().endpoints.resize(1);
        }
    }
    return out;
}

void check(const Options & options, const Scope & scope) {
    const bool has_model = !options.settings.model.empty();
    for (const CLI::Option * option : has_model ? scope.without_model : scope.with_model) {
        if (option->count() > 0) {
            throw CLI::ValidationError(option->get_name(),
                                       has_model ? "has no effect with a model (-m)" : "needs a model: -m FILE");
        }
    }
    for (const CLI::Option * option : scope.with_links) {
        if (options.all_reduce && option->count() > 0) {
            throw CLI::ValidationError(option->get_name(), "has no effect with --allreduce");
        }
    }
    if (options.all_reduce && (options.servers.size() < 2 || options.servers.size() > wire::max_ranks)) {
        throw CLI::ValidationError(formatted("--allreduce needs 2 to {} servers: --rpc A,B", wire::max_ranks));
    }
    if (!has_model && !options.settings.more.empty()) {
        throw CLI::ValidationError("arguments of llama-bench need a model: -m FILE");
    }
    if (has_model && options.settings.prompt + options.settings.generate == 0) {
        throw CLI::ValidationError("-p 0 and -n 0 leave nothing to measure");
    }
    if (!options.other_servers.empty() && !std::ranges::contains(options.against, "stock") &&
        !std::ranges::contains(options.against, "stock-tensor")) {
        throw CLI::ValidationError("--against-rpc needs --against stock or stock-tensor");
    }
    if (!options.settings.local_device.empty() && !std::ranges::contains(options.against, "local")) {
        throw CLI::ValidationError("--local-device needs --against local");
    }
    // Before the measurements, which may take hours.
    if (!options.plot_file.empty() && !std::ofstream(options.plot_file, std::ios::app)) {
        throw CLI::ValidationError("--plot: cannot write " + options.plot_file);
    }
}

int fail_with(const Error & error) {
    log_error("{}", error.text);
    return 1;
}

template <class Bench>
int report(const Bench & bench, const Options & options, const std::string & program) {
    const std::string text = options.output == "json"  ? json(bench, program)
                             : options.output == "csv" ? csv(bench)
                                                       : markdown(bench);
    std::fwrite(text.data(), 1, text.size(), stdout);
    if constexpr (requires { plot(bench); }) {
        if (!options.plot_file.empty()) {
            std::ofstream file(options.plot_file, std::ios::binary);
            file << plot(bench);
            if (!file.flush()) {
                return fail_with({Errc::io, formatted("cannot write {}", options.plot_file)});
            }
        }
    }
    return bench.any_failed() ? 1 : 0;
}

// Errors may quote texts of a server or llama-bench.
void print_progress(std::string_view line) { std::fprintf(stderr, "%s\n", printable(line, 4096).c_str()); }

int bench_model(Options options, const std::vector<bench::Arrangement> & arrangements, const std::string & program) {
    const auto llama_bench = bench::find_llama_bench();
    const auto plugin = options.plugin.empty() ? bench::find_plugin() : Result<std::string>(options.plugin);
    if (!llama_bench || !plugin) {
        return fail_with(llama_bench ? plugin.error() : llama_bench.error());
    }
    options.settings.program = *llama_bench;
    options.settings.plugin = std::filesystem::absolute(*plugin).string();
    bench::ModelBench bench{.settings = options.settings,
                            .rounds = options.rounds,
                            .cold = options.cold,
                            .run_limit = seconds(options.timeout_s)};
    bench::run(bench, arrangements, print_progress);
    return report(bench, options, program);
}

int bench_links(const Options & options, const std::vector<net::Endpoint> & endpoints, const std::string & program) {
    bench::LinkBench bench{.rounds = options.rounds, .time = milliseconds(options.time_ms)};
    bench::run(bench, endpoints, print_progress);
    for (const bench::Link & link : bench.links) {
        if (!link.failure.empty() && options.output != "md") {  // the table reports it
            print_progress(formatted("{} failed: {}", link.endpoint, link.failure));
        }
    }
    return report(bench, options, program);
}

int bench_reductions(const Options & options, const std::vector<net::Endpoint> & endpoints, const std::string & program) {
    bench::ReductionBench bench{.rounds = options.rounds};
    bench::run(bench, endpoints, print_progress);
    if (bench.any_failed() && options.output != "md") {
        print_progress(formatted("the measurement failed: {}", bench.failure));
    }
    return report(bench, options, program);
}

}  // namespace

int main(int argc, char ** argv) {
    Options options;
    CLI::App app{"Measures the network path to RPC servers, or a model that runs on them against other arrangements.",
                 "rpc-bench"};
    tools::set_up(app, "--rpc SERVER[,SERVER...] [-m FILE | --allreduce] [OPTIONS] [-- ARGUMENT OF llama-bench...]",
                  formatted("Caravan rpc-bench {} (RPC protocol {}.{}.{})", CARAVAN_VERSION, wire::stock_major,
                            wire::stock_minor, wire::stock_patch),
                  rpc_bench_help);
    const Scope scope = declare(app, options);
    char ** const end = std::find(argv, argv + argc, std::string_view("--"));
    std::vector<net::Endpoint> endpoints;
    std::vector<bench::Arrangement> arrangements;
    try {
        app.parse(static_cast<int>(end - argv), argv);
        if (end != argv + argc) {
            options.settings.more.assign(end + 1, argv + argc);
        }
        check(options, scope);
        endpoints = endpoints_of(options.servers);
        arrangements = arrangements_of(options);
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    return options.all_reduce               ? bench_reductions(options, endpoints, app.version())
           : options.settings.model.empty() ? bench_links(options, endpoints, app.version())
                                            : bench_model(options, arrangements, app.version());
}
