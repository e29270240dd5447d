// rpc-server: lends this machine's devices to ggml programs elsewhere.

#include <CLI/CLI.hpp>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/config.h"
#include "base/formatted.h"
#include "cache/store.h"
#include "net/faults.h"
#include "server/devices.h"
#include "server/indexer.h"
#include "server/server_log.h"
#include "server/supervisor.h"
#include "server/worker_process.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

constexpr const char * footer = R"(
Clients name this server with --rpc HOST:PORT (llama-server, llama-cli, llama-bench, ...) or, for any ggml program that
loads Caravan's plug-in, in GGML_RPC_SERVERS.

There is no authentication yet: bind beyond 127.0.0.1 on a trusted network only.

Environment:
  LLAMA_CACHE          -c and --model-dir use $LLAMA_CACHE/rpc
                       [else $XDG_CACHE_HOME/llama.cpp/rpc, ~/.cache/llama.cpp/rpc]
  GGML_RPC_DEBUG=1     log every step
  GGML_RPC_POLL_US=N   watch a session's socket for N microseconds before sleeping on it [50]

Signals:
  SIGTERM, SIGINT      take no new clients, let sessions go on for --drain seconds, exit 0; a second one ends them now

Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong command line)";

int fail_with(const Error & error) {
    server::print_error(error.text);
    return 1;
}

// What the command line leaves open. A worker is told everything, so that all see the same.
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
    if (weights.keep && !size_is_given) {
        weights.max_bytes = cache::default_limit(weights.directory);
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
    bool list_devices = false;
    int worker_fd = -1, indexer_fd = -1, drain = static_cast<int>(options.drain.count()),
        grace = static_cast<int>(options.worker.session_grace.count()),
        load_timeout = static_cast<int>(options.worker.load_timeout.count());

    CLI::App app{"Lends this machine's devices (GPUs, or its CPU) to ggml programs on other machines.", "rpc-server"};
    app.footer(footer);
    app.get_formatter()->enable_footer_formatting(false);
    app.get_formatter()->enable_description_formatting(false);
    app.set_version_flag("--version",
                         formatted("Caravan rpc-server {} (RPC protocol {}.{}.{}, ggml {}{})", CARAVAN_VERSION,
                                   wire::stock_major, wire::stock_minor, wire::stock_patch, ggml_version(),
                                   net::injects_faults ? ", GGML_RPC_FAULT" : ""));
    app.add_option("-H,--host", options.host, "address, name or unix:/path to listen on")->capture_default_str();
    app.add_option("-p,--port", options.port, "TCP port; 0 takes a free one and prints it")->capture_default_str();
    app.add_option("-t,--threads", options.worker.threads, "threads of a CPU device")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_option("-d,--device", options.worker.devices, "devices to lend, by name: A,B,... [all GPUs, else the CPU]")
        ->delimiter(',');
    auto * keep = app.add_flag("-c,--cache", weights.keep,
                               "keep weights on disk, so that the next load does not send them");
    app.add_option("--cache-dir", weights.directory,
                   "where -c keeps them, and --model-dir its hashes [see LLAMA_CACHE below]");
    auto * size = app.add_option("--cache-size", weights.max_bytes,
                                 "the most that -c keeps, as 500M or 50G: what was used longest ago goes first; 0 is "
                                 "no limit [a quarter of the disk]")
                      ->option_text("SIZE")
                      ->transform(CLI::AsSizeValue(false))
                      ->needs(keep);
    app.add_option("--model-dir", weights.model_dirs,
                   "load weights from the *.gguf files below DIR where they are the same as the client's; may be "
                   "repeated. They are looked through at the start, and hashed once")
        ->option_text("DIR")
        ->allow_extra_args(false);
    app.add_option("--max-sessions", options.max_sessions, "clients served at once; more have to wait")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--max-memory", options.worker.max_memory,
                   "the most that one session may have, as 500M or 50G: its buffers on all devices and what its graphs "
                   "take. Each device reports its part, in proportion to its memory [what the devices have, and 1 GiB for graphs]")
        ->option_text("SIZE")
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::PositiveNumber);
    app.add_option("--load-timeout", load_timeout,
                   "seconds that a worker process may take to load its devices; drivers may compile kernels first")
        ->check(CLI::Range(1, 24 * 3600))
        ->capture_default_str();
    app.add_option("--session-grace", grace,
                   "seconds that a session whose connection broke waits for its client; 0: it ends at once")
        ->check(CLI::Range(0, 24 * 3600));
    app.add_option("--drain", drain, "seconds that sessions may go on after SIGTERM")
        ->check(CLI::Range(0, 86400))
        ->capture_default_str();
    app.add_flag("!--no-confinement", options.worker.confined,
                 "let sessions do all that this user may, for GPU drivers that do not live with less");
    app.add_flag("--list-devices", list_devices, "print this machine's devices and exit");
    app.add_option(server::worker_option, worker_fd)->group("");    // start_worker() only
    app.add_option(server::indexer_option, indexer_fd)->group("");  // start_indexer() only
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (!list_devices) {
        server::begin_server_log();
    }
    if (worker_fd >= 0 || indexer_fd >= 0) {
        silence_environment_warnings();  // the supervisor has the same environment
    } else {
        check_environment(net::injects_faults);
    }
    options.drain = seconds(drain);
    options.worker.session_grace = seconds(grace);
    options.worker.load_timeout = seconds(load_timeout);
    if (list_devices) {
        ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        std::printf("Devices:\n%s", server::Devices::describe_all().c_str());
        return 0;
    }
#ifdef __linux__
    ::prctl(PR_SET_NAME, "rpc-server");  // as for ps: a worker's is "exe", the last part of the path that is executed
#endif
    // A directory that has gone since the start does not stop a worker: what it held is not found, that is all.
    if (worker_fd < 0 && indexer_fd < 0) {
        if (auto completed = complete(weights, size->count() > 0); !completed) {
            return fail_with(completed.error());
        }
    }
    if (worker_fd >= 0) {
        return server::run_worker(worker_fd, options.worker);
    }
    if (indexer_fd >= 0) {
        // Nothing runs at the exit of a confined process: a leak checker, for one, would need what it gave up.
        std::_Exit(server::run_indexer(indexer_fd, options.worker));
    }
    const auto served = server::run_supervisor(options);
    return served ? 0 : fail_with(served.error());
}
