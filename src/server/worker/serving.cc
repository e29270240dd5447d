#include "server/worker/serving.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "net/server_handshake.h"
#include "net/socket.h"
#include "platform/process_control.h"
#include "platform/socket.h"
#include "server/ipc/comm_port.h"
#include "server/ipc/server_log.h"
#include "server/session/session.h"
#include "server/worker/client_watch.h"
#include "server/worker/shared_memory_requests.h"
#include "server/worker/token_connections.h"
#include "server/worker/warm_ups.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

// The supervisor registers as many tokens as a session may issue.
static_assert(Links::max_links == max_invitations);
static_assert(WorkerOptions::no_limit == MemoryBudget::no_limit);

std::string why_ended(const Error & error) {
    return error.code == Errc::closed || error.code == Errc::reset ? "the client left" : error.text;
}

void report_end(int control, std::string_view text, const SessionCounters & counters = {}, uint64_t graph_bytes = 0) {
    ControlMessage ended{.kind = ControlMessage::Kind::ended, .count = unused_session_lines(), .memory_total = graph_bytes,
                         .counters = counters};
    ended.set_text(text);
    send_control(control, ended);
}

net::Networks networks_for(const WorkerOptions & options, int client) {
    net::Networks networks = options.links.value_or(net::Networks());
    if (options.local_links && net::is_local_peer(client)) {
        networks.add(net::Networks::loopback());  // for clients elsewhere, loopback is another machine
    }
    return networks;
}

void take_connection(const ControlMessage & message, UniqueFd socket, ClientWatch & watch, TokenConnections & connections) {
    const auto first = ConstBytes(message.prefix).first(std::min<size_t>(message.prefix_size, max_prefix));
    wire::RequestHeader header{};
    std::memcpy(&header, first.data(), std::min(first.size(), sizeof header));
    if (header.command == wire::command_lifeline) {
        watch.add_lifeline(message.token, std::move(socket));
    } else {
        connections.accept(message.token, std::move(socket), {first.begin(), first.end()}, message.resumes != 0,
                           message.shares_memory != 0);
    }
}

// Receives one message of the supervisor, for the thread of the watch.
void receive_from_supervisor(int control, Session & session, MachineMemory & machine, CommPort & comm, ClientWatch & watch,
                             TokenConnections & connections, SharedMemoryRequests & memory) {
    auto received = receive_control(control, Descriptors::accept_one);
    if (!received) {
        platform::end_process(EXIT_SUCCESS);  // the supervisor has exited
    }
    if (!*received) {
        return;
    }
    const ControlMessage & message = (*received)->message;
    switch (message.kind) {
        case ControlMessage::Kind::claim: machine.on_reply(message); break;
        case ControlMessage::Kind::comm: comm.on_reply(message, std::move((*received)->attached)); break;
        case ControlMessage::Kind::shared: memory.on_reply(std::move(**received)); break;
        case ControlMessage::Kind::contend: session.limit_silence(seconds(message.number)); break;
        case ControlMessage::Kind::link: take_connection(message, std::move((*received)->attached), watch, connections); break;
        default: break;
    }
}

struct SessionEnd {
    std::string reason;
    SessionCounters counters;
    uint64_t graph_bytes = 0;  // written for later workers
};

SessionEnd run_session(net::Accepted & accepted, const ControlMessage & given, UniqueFd client, int control,
                        const WorkerOptions & options, Devices & devices, cache::Weights & weights, const UniqueFd & graphs) {
    Links & links = *new Links([control](uint64_t link) {
        return send_control(control, {.kind = ControlMessage::Kind::invite, .token = link});
    }, options.session_grace, networks_for(options, client.get()));
    ResumptionTable streams;
    links.on_dropped = [&streams, control](uint64_t token) {
        streams.remove(token);
        send_control(control, {.kind = ControlMessage::Kind::forget, .token = token});
    };
    links.on_resumable = [&streams](uint64_t token, net::ResumableTransport & link) { streams.add(token, link); };
    if (accepted.in_records) {
        auto resumable = std::make_unique<net::ResumableTransport>(
            std::move(accepted.transport),
            net::ResumableTransport::Options{.name = given.text, .grace = options.session_grace, .reconnect = {}});
        streams.add(given.token, *resumable);
        accepted.transport = std::move(resumable);
    }
    // As the links, it is never destroyed.
    auto & memory = *new SharedMemoryRequests([control](const ControlMessage & message) {
        return send_control(control, message);
    });
    links.memory = &memory;
    TokenConnections connections(links, streams);
    MachineMemory machine([control](const ControlMessage & claim) { return send_control(control, claim); });
    CommPort comm([control](const ControlMessage & question) { return send_control(control, question); });
    StockPairing pairing({.reserve = [&comm] { return comm.reserve(); },
                          .accept = [&comm](uint32_t port, TimePoint deadline) { return comm.accept(port, deadline); },
                          .stop_accepting = [&comm] { comm.stop_accepting(); },
                          .release = [&comm] { comm.release(); }},
                         networks_for(options, client.get()));
    Session session(*accepted.transport, accepted.first, devices, &weights, &links, options.max_memory, &machine);
    session.use_pairing(pairing);
    session.accepts_native = given.is_native != 0;
    session.on_first_command = [control] { send_control(control, {.kind = ControlMessage::Kind::begun}); };
    const auto watch = ClientWatch::start(
        std::move(client), control, accepted.in_records ? given.token : 0, streams,
        {.on_supervisor =
             [&](ClientWatch & self) { receive_from_supervisor(control, session, machine, comm, self, connections, memory); },
         // An upload may be on its way into the cache, so the session goes on reading.
         .on_left = [&] { devices.abort_computation(); },
         .on_overdue =
             [&] {
                 const char * command = session.command();
                 report_end(control, command == nullptr ? std::string("the client left")
                                                        : formatted("the client left; {} was broken off", command));
                 platform::end_process(EXIT_SUCCESS);
             }});
    if (!watch) {
        return {watch.error().text, {}, 0};
    }
    const Error end = session.run();
    return {why_ended(end), session.counters(),
            graphs ? write_graphs(graphs.get(), session.encode_graphs(tunable::warm_up_bytes)) : 0};
}

}  // namespace

void serve(ReceivedControl given, int control, const WorkerOptions & options, Devices & devices, cache::Weights & weights,
           const UniqueFd & graphs) {
    const ControlMessage & message = given.message;
    begin_session_log(message.number, message.count);
    UniqueFd client = platform::duplicate(given.attached.get()).value_or(UniqueFd());
    const ConstBytes first = ConstBytes(message.prefix).first(std::min<size_t>(message.prefix_size, max_prefix));
    auto accepted = net::open_server(std::move(given.attached), first, message.token != 0);
    const SessionEnd end = accepted ? run_session(*accepted, message, std::move(client), control, options, devices, weights,
                                                  graphs)
                                    : SessionEnd{accepted.error().text, {}, 0};
    end_server_log();
    report_end(control, end.reason, end.counters, end.graph_bytes);
}

}  // namespace caravan::server
