// rpc-server: lends this machine's devices to ggml programs elsewhere.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <thread>

#include "base/log.h"
#include "cache/store.h"
#include "server/devices.h"
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
  LLAMA_CACHE          the cache lies in $LLAMA_CACHE/rpc [else $XDG_CACHE_HOME/llama.cpp/rpc, ~/.cache/llama.cpp/rpc]
  GGML_RPC_DEBUG=1     log every step
  GGML_RPC_POLL_US=N   watch a session's socket for N microseconds before sleeping on it [50]

Signals:
  SIGTERM, SIGINT      take no new clients, let sessions go on for --drain seconds, exit 0; a second one ends them now

Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong command line)";

int fail_with(const Error & error) {
    log_error("{}", error.text);
    return 1;
}

}  // namespace

int main(int argc, char ** argv) {
    server::ServerOptions options;
    options.worker.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency() / 2));
    bool cache = false, list_devices = false;
    std::string cache_dir;
    int worker_fd = -1, drain = static_cast<int>(options.drain.count());

    CLI::App app{"Lends this machine's devices (GPUs, or its CPU) to ggml programs on other machines.", "rpc-server"};
    app.footer(footer);
    app.get_formatter()->enable_footer_formatting(false);
    app.get_formatter()->enable_description_formatting(false);
    app.set_version_flag("--version", std::format("Caravan rpc-server {} (RPC protocol {}.{}.{}, ggml {})", CARAVAN_VERSION,
                                                  wire::stock_major, wire::stock_minor, wire::stock_patch,
                                                  ggml_version()));
    app.add_option("-H,--host", options.host, "address, name or unix:/path to listen on")->capture_default_str();
    app.add_option("-p,--port", options.port, "TCP port; 0 takes a free one and prints it")->capture_default_str();
    app.add_option("-t,--threads", options.worker.threads, "threads of a CPU device")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_option("-d,--device", options.worker.devices, "devices to lend, by name: A,B,... [all GPUs, else the CPU]")
        ->delimiter(',');
    app.add_flag("-c,--cache", cache, "keep weights on disk, so that the next load does not send them");
    app.add_option("--cache-dir", cache_dir, "where -c keeps them [see LLAMA_CACHE below]");
    app.add_option("--max-sessions", options.max_sessions, "clients served at once; more have to wait")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--drain", drain, "seconds that sessions may go on after SIGTERM")
        ->check(CLI::Range(0, 86400))
        ->capture_default_str();
    app.add_flag("--list-devices", list_devices, "print this machine's devices and exit");
    app.add_option(server::worker_option, worker_fd)->group("");  // start_worker() only
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    options.drain = seconds(drain);
    if (list_devices) {
        ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        std::printf("Devices:\n%s", server::Devices::describe_all().c_str());
        return 0;
    }
    if (cache) {
        if (cache_dir.empty()) {
            const auto directory = cache::default_directory();
            if (!directory) {
                return fail_with(directory.error());
            }
            cache_dir = directory->string();
        }
        options.worker.cache_dir = cache_dir;
    }
    if (worker_fd >= 0) {
        return server::run_worker(worker_fd, options.worker);
    }
    const auto served = server::run_supervisor(options);
    return served ? 0 : fail_with(served.error());
}
