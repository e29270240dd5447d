// rpc-doctor: what a person with an RPC or RDMA problem needs to know, on one page.

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/log.h"
#include "doctor/report.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

constexpr const char * footer = R"(
Run it on the client's machine, naming the servers as --rpc does; run it on the server's machine without an endpoint.
Each thing that it found begins with one of

  ok    it is as it should be
  note  worth knowing, but nothing is wrong
  MEND  it stands in the way; the line after it, with an arrow, says what to do

TCP alone is fine: a machine or server without RDMA is a note at most. If GGML_RPC_TRANSPORT=rdma or a GGML_RDMA_
variable asks for RDMA, whatever stands in its way is marked MEND.

Measuring takes a second or two for each endpoint and transport. Meanwhile up to 64 MiB of the server's first device
are used, and as much is sent as the network takes in --time: not for a network that others need just now. A stock
server serves one client at a time and does not answer while it has another.

The memlock limit is that of the shell it is run in; a service has its own (LimitMEMLOCK=).

Round trips are of a question that computes nothing, so they are the least that a token costs for each server.

Environment, the same as for the program that has the problem:
  GGML_RPC_TRANSPORT   auto, tcp: never RDMA, rdma: a session without RDMA is an error [auto]
  GGML_RDMA_DEV, GGML_RDMA_PORT, GGML_RDMA_GID
                       device, port and GID index to use [the first whose GID is the connection's own address]
  GGML_RPC_DEBUG=1     log every step

In JSON, null is what is not known or was not measured; a memlock_bytes of null is no limit.

Exit codes: 0 all is well, 1 something is to be mended, 2 wrong command line)";

// Info would break the page in two.
void log_to_stderr(LogLevel level, std::string_view text) {
    if (level >= LogLevel::warning || debug_enabled()) {
        std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
    }
}

}  // namespace

int main(int argc, char ** argv) {
    std::vector<std::string> names;
    bool as_json = false;
    int answer_s = 5, bandwidth_ms = 500;

    CLI::App app{"Examines this machine's RDMA devices and the way to RPC servers, and says what to mend.", "rpc-doctor"};
    app.footer(footer);
    app.get_formatter()->enable_footer_formatting(false);
    app.get_formatter()->enable_description_formatting(false);
    app.set_version_flag("--version", formatted("Caravan rpc-doctor {} (RPC protocol {}.{}.{})", CARAVAN_VERSION,
                                                wire::stock_major, wire::stock_minor, wire::stock_patch));
    app.add_option("endpoint", names, "servers: host:port, [ipv6]:port, host or unix:/path; A,B,... as --rpc takes them")
        ->delimiter(',');
    app.add_flag("--json", as_json, "print JSON instead of the page");
    app.add_option("--time", bandwidth_ms, "milliseconds of data in each direction, to measure bandwidth")
        ->check(CLI::Range(10, 60'000))
        ->capture_default_str();
    app.add_option("--timeout", answer_s, "seconds to wait for a server that does not answer")
        ->check(CLI::Range(1, 300))
        ->capture_default_str();
    std::vector<net::Endpoint> endpoints;
    try {
        app.parse(argc, argv);
        for (const std::string & name : names) {
            const auto endpoint = net::parse_endpoint(name);
            if (!endpoint) {
                throw CLI::ValidationError(endpoint.error().text);
            }
            endpoints.push_back(*endpoint);
        }
    } catch (const CLI::ParseError & error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    set_log_sink(log_to_stderr);

    doctor::Patience patience{.answer = seconds(answer_s), .bandwidth = milliseconds(bandwidth_ms)};
    patience.whole += 2 * patience.bandwidth;
    doctor::Report report{app.version(), doctor::examine_machine(), {}};
    for (const net::Endpoint & endpoint : endpoints) {
        report.endpoints.push_back(doctor::examine_endpoint(endpoint, patience));
    }
    const std::string text = as_json ? doctor::json(report) : doctor::page(report);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return doctor::any_to_mend(report) ? 1 : 0;
}
