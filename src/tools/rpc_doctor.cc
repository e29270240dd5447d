// rpc-doctor: diagnoses RPC and RDMA problems on one page.

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "base/printable.h"
#include "doctor/report.h"
#include "net/client_handshake.h"
#include "tools/command_line.h"
#include "wire/native.h"
#include "wire/stock.h"

namespace {

using namespace caravan;

constexpr const char * footer = R"(
Run it on the client's machine with the servers of --rpc, and on a server's machine without an endpoint.
Each finding begins with a mark:

  ok    no fault
  note  worth knowing, but not a fault
  FIX   a fault; the next line, with an arrow, gives advice

Missing RDMA is at most a note, unless GGML_RPC_TRANSPORT=rdma or a GGML_RDMA_ variable requests RDMA: then everything
that prevents it is marked FIX.

A measurement takes a second or two for each endpoint and transport. It uses up to 64 MiB of the server's first device
and the full bandwidth of the network for --time: do not run it while others need that network. A stock server serves
one client at a time, and does not reply while it serves another one.

With several Caravan servers it also measures how long they need to add up a tensor among themselves, and predicts what
-sm tensor (tensor parallelism) brings for some models.

Round trips are those of a query that computes nothing: the minimum that a token costs for each server. The memlock
limit is that of this shell; a service has its own (LimitMEMLOCK=). In JSON, null means unknown or not measured; for
memlock_bytes it means no limit.

Environment, to be set as for the program that has the problem:
  GGML_RPC_TRANSPORT   auto; tcp: never RDMA; rdma: a session without RDMA is an error [auto]
  GGML_RDMA_DEV, GGML_RDMA_PORT, GGML_RDMA_GID
                       use this device, port and GID index [the first GID that is the connection's own address]
  GGML_RDMA_RAILS      queue pairs of a session, 1 to 4 [one for each device]
  GGML_RPC_DEBUG=1     print the log of each connection too

Exit codes:
  0  no fault
  1  a fault (FIX)
  2  wrong command line)";

// Messages at info level would interrupt the page.
void log_to_stderr(LogLevel level, std::string_view text) {
    if (level >= LogLevel::warning || debug_enabled()) {
        std::fprintf(stderr, "%s\n", printable(text, 4096).c_str());
    }
}

}  // namespace

int main(int argc, char ** argv) {
    std::vector<std::string> names;
    bool as_json = false;
    int reply_s = 5, bandwidth_ms = 500;

    CLI::App app{"Diagnoses this machine's RDMA devices and the network path to RPC servers, with advice for each fault.",
                 "rpc-doctor"};
    tools::set_up(app, "[OPTIONS] [ENDPOINT...]",
                  formatted("Caravan rpc-doctor {} (RPC protocol {}.{}.{})", CARAVAN_VERSION, wire::stock_major,
                            wire::stock_minor, wire::stock_patch),
                  footer);
    app.add_option("endpoint", names, "servers as --rpc takes them: host:port, [ipv6]:port, host or unix:/path")
        ->option_text("ENDPOINT,...")
        ->delimiter(',');
    app.add_flag("--json", as_json, "print JSON instead of text");
    auto * time = app.add_option("--time", bandwidth_ms, "measure bandwidth for this long in each direction")
                      ->type_name("MILLISECONDS")
                      ->check(tools::whole_number(10, 60'000, "--time 500"))
                      ->capture_default_str();
    auto * timeout = app.add_option("--timeout", reply_s,
                                    "give up on a server that does not reply, or has no free session, for this long")
                         ->type_name("SECONDS")
                         ->check(tools::whole_number(1, 300, "--timeout 5"))
                         ->capture_default_str();
    std::vector<net::Endpoint> endpoints;
    try {
        app.parse(argc, argv);
        if (names.empty() && time->count() + timeout->count() > 0) {
            throw CLI::ValidationError("--time and --timeout need an endpoint");
        }
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

    doctor::Limits limits{.reply = seconds(reply_s), .bandwidth = milliseconds(bandwidth_ms)};
    limits.total += 2 * limits.bandwidth;
    doctor::Report report{app.version(), doctor::examine_machine(), {}, {}};
    for (const net::Endpoint & endpoint : endpoints) {
        const auto on_wait = [&](const wire::AdmissionReply & place) {
            std::fprintf(stderr, "%s: waiting for a session, for %d s at most: %s\n", endpoint.text().c_str(), reply_s,
                         net::describe(place).c_str());
        };
        report.endpoints.push_back(doctor::examine_endpoint(endpoint, limits, on_wait));
    }
    const bool can_group = std::ranges::all_of(report.endpoints, [](const doctor::EndpointFacts & facts) {
        return facts.is_caravan && facts.transport;
    });
    if (endpoints.size() > 1 && endpoints.size() <= wire::max_ranks && can_group) {
        report.all_reduce = doctor::measure_all_reduce(endpoints, limits);
    }
    const std::string text = as_json ? doctor::json(report) : doctor::page(report);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return doctor::any_to_fix(report) ? 1 : 0;
}
