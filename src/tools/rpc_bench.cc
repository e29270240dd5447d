// rpc-bench: how fast the way to RPC servers is, and a model with it, against other arrangements in the same run.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "bench/installed.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "net/handshake.h"
#include "tools/rpc_bench_help.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

struct Options {
    std::vector<std::string> servers, other_servers, against;
    std::string output = "md", plot_file, plugin;
    uint32_t rounds = 5;
    int time_ms = 100, timeout_s = 3600;
    bool cold = false;
    bench::Settings settings;
};

void declare(CLI::App & app, Options & options) {
    const CLI::Range count(0, 1 << 30), some(1, 1'000'000);
    app.add_option("--rpc", options.servers, "servers: host:port, [ipv6]:port, host or unix:/path; A,B,...")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->required();
    app.add_option("-m,--model", options.settings.model, "a GGUF file to run; without one, the way there is measured")
        ->check(CLI::ExistingFile);
    app.add_option("--against", options.against, "other arrangements of the model, see below; A,B,...")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::IsMember({"stock", "tcp", "rdma", "local"}));
    app.add_option("--against-rpc", options.other_servers, "the servers of stock [those of --rpc]")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("-p,--n-prompt", options.settings.prompt, "tokens of the prompt; 0: none")
        ->check(count)
        ->capture_default_str();
    app.add_option("-n,--n-gen", options.settings.generate, "tokens to generate; 0: none")
        ->check(count)
        ->capture_default_str();
    app.add_option("-r,--repetitions", options.settings.repetitions, "of each test within a run")
        ->check(some)
        ->capture_default_str();
    app.add_option("--rounds", options.rounds, "how often each thing is measured")->check(some)->capture_default_str();
    app.add_option("-t,--threads", options.settings.threads, "threads of llama-bench [as it decides]")
        ->check(CLI::Range(1, 4096));
    app.add_option("--device", options.settings.device,
                   "devices of the arrangements with RPC, as llama-bench -dev takes them [all]");
    app.add_option("--local-device", options.settings.local_device, "devices of local [none: the CPU]");
    app.add_flag("--cold", options.cold, "drop the model's file from this machine's memory before each run");
    app.add_option("--plugin", options.plugin, "Caravan's plug-in [beside this program, else the installed one]")
        ->check(CLI::ExistingFile);
    app.add_option("--time", options.time_ms,
                   "milliseconds of each measurement of the way, of which a round has three for each size")
        ->check(CLI::Range(1, 60'000))
        ->capture_default_str();
    app.add_option("--timeout", options.timeout_s, "seconds that one run of llama-bench may take")
        ->check(some)
        ->capture_default_str();
    app.add_option("-o,--output", options.output, "the form of the report")
        ->check(CLI::IsMember({"md", "json", "csv"}))
        ->capture_default_str();
    app.add_option("--plot", options.plot_file, "write a picture to this file (SVG)");
    app.usage("Usage: rpc-bench --rpc SERVER[,SERVER...] [-m MODEL] [OPTIONS] [-- ARGUMENT OF llama-bench...]");
}

// One name for each server, whoever asks.
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
            throw CLI::ValidationError("--against: " + (kind ? name + " is named twice" : kind.error().text));
        }
        if (*kind == bench::Kind::rdma && !net::has_rdma) {
            throw CLI::ValidationError("--against rdma: this build is without RDMA (-DGGML_RPC_RDMA=ON)");
        }
        const bool has_others = *kind == bench::Kind::stock && !others.empty();
        out.push_back({*kind, *kind == bench::Kind::local ? std::vector<std::string>{} : has_others ? others : servers});
    }
    return out;
}

void check(const Options & options) {
    const bool has_model = !options.settings.model.empty();
    if (!has_model && (!options.against.empty() || options.cold || !options.settings.more.empty())) {
        throw CLI::ValidationError("--against, --cold and arguments of llama-bench need a model: -m");
    }
    if (has_model && options.settings.prompt + options.settings.generate == 0) {
        throw CLI::ValidationError("-p 0 and -n 0 leave nothing to measure");
    }
    if (!options.other_servers.empty() && !std::ranges::contains(options.against, "stock")) {
        throw CLI::ValidationError("--against-rpc is for --against stock");
    }
    // Now, not after all has been measured.
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
    if (!options.plot_file.empty()) {
        std::ofstream file(options.plot_file, std::ios::binary);
        file << plot(bench);
        if (!file.flush()) {
            return fail_with({Errc::io, formatted("cannot write {}", options.plot_file)});
        }
    }
    return bench.any_failed() ? 1 : 0;
}

void say(std::string_view line) { std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data()); }

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
    bench::run(bench, arrangements, say);
    return report(bench, options, program);
}

int bench_links(const Options & options, const std::vector<net::Endpoint> & endpoints, const std::string & program) {
    bench::LinkBench bench{.rounds = options.rounds, .time = milliseconds(options.time_ms)};
    bench::run(bench, endpoints, say);
    return report(bench, options, program);
}

}  // namespace

int main(int argc, char ** argv) {
    Options options;
    CLI::App app{"Measures the way to RPC servers, or a model that runs on them against other arrangements.", "rpc-bench"};
    app.footer(rpc_bench_help);
    app.get_formatter()->enable_footer_formatting(false);
    app.get_formatter()->enable_description_formatting(false);
    app.set_version_flag("--version", formatted("Caravan rpc-bench {} (RPC protocol {}.{}.{})", CARAVAN_VERSION,
                                                wire::stock_major, wire::stock_minor, wire::stock_patch));
    declare(app, options);
    char ** const end = std::find(argv, argv + argc, std::string_view("--"));
    std::vector<net::Endpoint> endpoints;
    std::vector<bench::Arrangement> arrangements;
    try {
        app.parse(static_cast<int>(end - argv), argv);
        if (end != argv + argc) {
            options.settings.more.assign(end + 1, argv + argc);
        }
        check(options);
        endpoints = endpoints_of(options.servers);
        arrangements = arrangements_of(options);
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    return options.settings.model.empty() ? bench_links(options, endpoints, app.version())
                                          : bench_model(options, arrangements, app.version());
}
