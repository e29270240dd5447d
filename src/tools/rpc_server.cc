// rpc-server: lends this machine's devices to ggml programs on other machines.

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <thread>

#include "base/config.h"
#include "base/formatted.h"
#include "cache/store.h"
#include "net/endpoint.h"
#include "net/faults.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/supervisor.h"
#include "server/supervisor/worker_program.h"
#include "tools/command_line.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

// Minimum of --max-memory and --cache-size: only larger weights are cached, and no model fits into less.
constexpr uint64_t least_limit = 1 << 20;

constexpr const char * footer = R"(
A client names this server with --rpc HOST:PORT (llama-server, llama-cli, llama-bench, ...) or, in any ggml program that
loads Caravan's plug-in, with GGML_RPC_SERVERS=HOST:PORT.

There is no authentication and no encryption: listen beyond 127.0.0.1 on a trusted network only.

Environment:
  LLAMA_CACHE             -c and --model-dir use $LLAMA_CACHE/rpc
                          [$XDG_CACHE_HOME/llama.cpp/rpc, without that ~/.cache/llama.cpp/rpc]
  GGML_RPC_TRANSPORT=tcp  do not use RDMA
  GGML_RPC_DEBUG=1        log every connection, and what ggml logs, too
  GGML_RPC_POLL_US=N      poll a session's socket for N microseconds before sleeping
                          [learnt, at most 300]
  GGML_RPC_SHM=off        no shared memory with servers of this machine (-sm tensor)
  GOMP_SPINCOUNT, OMP_WAIT_POLICY
                          how threads of a CPU device wait for each other [GOMP_SPINCOUNT=300, which lets sessions
                          that compute at the same time take turns]

Signals:
  SIGTERM, SIGINT         refuse new clients, let sessions run, and reconnect, for --drain seconds, and exit; a second
                          signal ends them at once

Exit codes:
  0  stopped by a signal
  1  could not start
  2  wrong command line)";

int fail_with(const Error & error) {
    server::print_error(error.text);
    return 1;
}

std::string version_text() {
    const auto ggml = server::WorkerProgram::open().and_then(
        [](const server::WorkerProgram & program) { return program.output_of(server::ggml_version_command); });
    return formatted("Caravan rpc-server {} (RPC protocol {}.{}.{}, ggml {}{})", CARAVAN_VERSION, wire::stock_major,
                     wire::stock_minor, wire::stock_patch, ggml ? *ggml : "unknown: " + ggml.error().text,
                     net::injects_faults ? ", GGML_RPC_FAULT" : "");
}

// Refuses options that contradict each other or have no effect.
void check(server::ServerOptions & options, bool has_port, bool has_cache_dir) {
    auto host = net::parse_listen_host(options.host);
    if (!host) {
        throw CLI::ValidationError("--host", host.error().text);
    }
    options.host = std::move(*host);
    if (has_port && options.host.starts_with("unix:")) {
        throw CLI::ValidationError("--port", "a Unix socket has no port: leave out -p or name an address with -H");
    }
    if (options.stock_comm && options.host.starts_with("unix:")) {
        throw CLI::ValidationError("--stock-comm", "a Unix socket has no port that another server could connect to");
    }
    if (options.max_per_address > options.max_sessions) {
        throw CLI::ValidationError(
            "--max-per-address",
            formatted("{} is more than the {} of --max-sessions: no address can have as many. Raise --max-sessions to {}, or "
                      "lower --max-per-address", options.max_per_address, options.max_sessions, options.max_per_address));
    }
    if (has_cache_dir && !options.worker.weights.keep && options.worker.weights.model_dirs.empty()) {
        throw CLI::ValidationError("--cache-dir", "without -c or --model-dir nothing is cached: add -c");
    }
}

// Completes the options from the environment. Workers receive the complete options, so that all processes use the same.
Result<> complete(cache::WeightOptions & weights, bool size_is_given) {
    if (!weights.keep && weights.model_dirs.empty()) {
        return {};
    }
    if (weights.directory.empty()) {
        auto directory = cache::default_directory();
        if (!directory) {
            return std::unexpected(directory.error());
        }
        weights.directory = std::move(*directory);
    }
    // Other errors may be temporary: they do not prevent the start, and the server logs them.
    for (std::filesystem::path at = std::filesystem::absolute(weights.directory); at.has_relative_path();
         at = at.parent_path()) {
        std::error_code error;
        if (std::filesystem::exists(at, error) && !std::filesystem::is_directory(at, error)) {
            return fail(Errc::invalid_argument, "weight cache: {} is not a directory", at.string());
        }
    }
    if (weights.keep && !size_is_given) {
        weights.max_bytes = cache::default_limit(weights.directory);
        weights.max_bytes = weights.max_bytes == 0 ? 0 : std::max(weights.max_bytes, least_limit);
    }
    for (std::filesystem::path & dir : weights.model_dirs) {
        std::error_code error;
        const auto canonical = std::filesystem::canonical(dir, error);
        if (error || !std::filesystem::is_directory(canonical, error)) {
            return fail(Errc::not_found, "--model-dir {}: {}", dir.string(),
                        error ? error.message() : "not a directory");
        }
        dir = canonical;
    }
    return {};
}

}  // namespace

int main(int argc, char ** argv) {
    server::ServerOptions options;
    options.worker.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency() / 2));
    cache::WeightOptions & weights = options.worker.weights;
    bool list_devices = false, unconfined = false, no_spare = false;
    int drain = static_cast<int>(options.drain.count()),
        grace = static_cast<int>(options.worker.session_grace.count()),
        load_timeout = static_cast<int>(options.worker.load_timeout.count()),
        idle = static_cast<int>(options.idle_limit.count());

    CLI::App app{"Lends this machine's devices (GPUs, or its CPU) to ggml programs on other machines.", "rpc-server"};
    tools::set_up(app, "[OPTIONS]", "", footer);
    app.set_version_flag("--version", version_text, "print the version and exit");
    app.add_option("-H,--host", options.host, "listen on this address, host name or unix:/path")
        ->type_name("HOST")
        ->capture_default_str();
    auto * port = app.add_option("-p,--port", options.port, "listen on this TCP port; 0: any free port, which is printed")
                      ->type_name("PORT")
                      ->check(tools::whole_number(0, 65535, "-p 50052").description(""))
                      ->capture_default_str();
    app.add_option("-t,--threads", options.worker.threads, "compute with this many threads on a CPU device")
        ->check(tools::whole_number(1, 4096, "-t 8"))
        ->capture_default_str();
    app.add_option("-d,--device", options.worker.devices,
                   "lend these devices, by their names in --list-devices [all GPUs; without a GPU, the CPU]")
        ->option_text("NAME,...")
        ->delimiter(',');
    auto * keep = app.add_flag("-c,--cache", weights.keep,
                               "keep uploaded weights on disk, so that clients need not send them again: tensors of more than "
                               "1 MiB (10 MiB from stock clients)");
    auto * cache_dir = app.add_option("--cache-dir", weights.directory,
                                      "keep the weights of -c and the hashes of --model-dir in DIR [see LLAMA_CACHE below]")
                           ->option_text("DIR");
    auto * size = app.add_option("--cache-size", weights.max_bytes,
                                 "limit of -c, for example 500M or 50G; the least recently used weights make room; 0: no "
                                 "limit [a quarter of the disk]")
                      ->option_text("SIZE")
                      ->transform(tools::as_size(least_limit, "no limit"))
                      ->needs(keep);
    app.add_option("--model-dir", weights.model_dirs,
                   "load weights (tensors of more than 1 MiB) from the *.gguf files below DIR if they equal the client's; "
                   "may be given more than once. The server hashes the files once, in the background")
        ->option_text("DIR")
        ->allow_extra_args(false);
    app.add_option("--max-sessions", options.max_sessions, "serve this many clients at once; further clients wait")
        ->check(tools::whole_number(1, 1024, "--max-sessions 16"))
        ->capture_default_str();
    app.add_option("--max-per-address", options.max_per_address,
                   "serve this many clients of one address (Unix socket: of one user) at once. If below --max-sessions, the "
                   "last session is reserved for an address that has none [--max-sessions minus 1]")
        ->option_text("N")
        ->check(tools::whole_number(1, 1024, "--max-per-address 4"));
    app.add_option("--idle-limit", idle,
                   "end a session that is idle for longer than this while a client waits whose address has fewer; 0: never")
        ->type_name("SECONDS")
        ->check(tools::whole_number(0, 7 * 24 * 3600, "--idle-limit 600"))
        ->capture_default_str();
    app.add_option("--max-memory", options.worker.max_memory,
                   "limit of one session's memory, for example 500M or 50G: its buffers on all devices and its graphs. Each "
                   "device reports a share in proportion to its memory [what the devices have, and 1 GiB for graphs]")
        ->option_text("SIZE")
        ->transform(tools::as_size(least_limit));
    app.add_option_function<std::string>(
           "--links",
           [&options](const std::string & text) {
               auto links = net::Networks::parse(text);
               if (!links) {
                   throw CLI::ValidationError("--links", links.error().text);
               }
               options.worker.links = std::move(*links);
           },
           "networks in which sessions may connect to other servers' sessions, as 10.0.0.0/8,fd00::/8, or off: clients "
           "then carry that data themselves [those of this machine's interfaces; loopback if it listens only there]")
        ->option_text("CIDR,...|off");
    app.add_flag("--stock-comm", options.stock_comm,
                 "let stock clients with -sm tensor have this server and another one, also a stock one, add up tensors over a "
                 "connection to this server's port plus 1000, which nothing authenticates. Only one client at a time can; it "
                 "is within the networks of --links");
    app.add_option("--load-timeout", load_timeout,
                   "end a worker process that loads its devices for longer than this; drivers may compile kernels first")
        ->type_name("SECONDS")
        ->check(tools::whole_number(1, 24 * 3600, "--load-timeout 300"))
        ->capture_default_str();
    app.add_option("--session-grace", grace,
                   "keep a session for this long after its connection breaks, so that its client can reconnect; 0: end it "
                   "at once")
        ->type_name("SECONDS")
        ->check(tools::whole_number(0, 24 * 3600, "--session-grace 60"))
        ->capture_default_str();
    app.add_option("--drain", drain,
                   "let sessions run for this long after SIGTERM; the server exits once the last one has ended. infinity: "
                   "no limit")
        ->option_text("SECONDS")
        ->transform(CLI::Transformer(std::map<std::string, int>{{"infinity", INT_MAX}}))
        ->check(tools::whole_number(0, INT_MAX, "--drain 60, or --drain infinity").description(""))
        ->capture_default_str();
    app.add_flag("--no-spare", no_spare,
                 "keep no worker process that waits for the next session, and so holds memory of GPUs. One then starts, and "
                 "loads the devices, for a client that begins a session or asks for the memory of a device, and ends if no "
                 "session begins within 5 s");
    app.add_flag("--no-confinement", unconfined, "run sessions unconfined, for GPU drivers that need more access");
    app.add_flag("--list-devices", list_devices, "print this machine's devices and exit");
    try {
        app.parse(argc, argv);
        check(options, port->count() > 0, cache_dir->count() > 0);
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (!list_devices) {
        server::begin_server_log();
    }
    check_environment(net::injects_faults);
    options.worker.confined = !unconfined;
    options.worker.keep_spare = !no_spare;
    options.drain = drain == INT_MAX ? server::ServerOptions::no_limit : seconds(drain);
    options.idle_limit = seconds(idle);
    options.worker.session_grace = seconds(grace);
    options.worker.load_timeout = seconds(load_timeout);
    const auto program = server::WorkerProgram::open();
    if (!program) {
        return fail_with(program.error());
    }
    if (list_devices) {
        return fail_with(program->become(server::list_devices_command));
    }
    if (auto completed = complete(weights, size->count() > 0); !completed) {
        return fail_with(completed.error());
    }
    const auto served = server::run_supervisor(options, *program);
    return served ? 0 : fail_with(served.error());
}
