#include "server/supervisor/reception.h"

#include <algorithm>

#include "base/log.h"
#include "tunables/net.h"
#include "tunables/supervisor.h"

namespace caravan::server {

Reception::Reception(const ServerOptions & options, WorkerPool & workers, size_t capacity)
    : options_(options),
      workers_(workers),
      clients_(capacity),
      queries_(workers_, clients_),
      admission_(options, workers_, clients_),
      contention_(options.idle_limit, workers_, clients_, admission_.slots()),
      half_open_(workers_, clients_, admission_.slots()) {
    workers_.on_memory_reply = [this](const ControlMessage & reply) { queries_.answer(reply); };
    workers_.on_queries_lost = [this] { queries_.forget(); };
}

// Reads from each new connection immediately: its HELLO may have arrived already, and then it does not count as silent.
void Reception::accept_all(net::Listener & listener) {
    const bool may_resume = options_.worker.session_grace.count() > 0 &&
                            listener.endpoint.kind == net::Endpoint::Kind::tcp;  // network faults do not affect Unix sockets
    for (int accepted = 0; accepted < tunable::accepts_at_once; ++accepted) {
        auto socket = net::accept_socket(listener.fd.get());
        if (!socket) {
            log_warning("{}", socket.error().text);
            accept_again_at_ = Clock::now() + tunable::accept_pause;
            break;
        }
        if (!*socket) {
            break;
        }
        WaitingClient & client = clients_.add(std::move(*socket), may_resume);
        log_debug("connection from {}", client.client.peer());
        advance(client);
        clients_.bound();
    }
}

void Reception::advance(WaitingClient & client) {
    if (client.closing) {
        return;
    }
    client.last_received = Clock::now();
    const auto wants = client.client.advance(workers_.devices(), outage());
    if (!wants) {
        drop(client, wants.error());
        return;
    }
    client.wants = *wants;
    serve(client);
}

void Reception::receive_confirmation(WaitingClient & client) {
    if (client.closing) {
        return;
    }
    if (auto received = client.client.read_confirmation(); !received) {
        drop(client, received.error());
    }
}

void Reception::drop(WaitingClient & client, const Error & error) {
    if (error.code == Errc::closed) {
        log_debug("{} {}", client.client.peer(), error.text);
    } else {
        log_warning("dropping {}: it {}", client.client.peer(), error.text);
    }
    clients_.drop(client);
}

// Serves what a client wants if possible now, except sessions: serve_all() does.
void Reception::serve(WaitingClient & client) {
    if (client.has_token()) {
        return;
    }
    if (client.wants != FrontDoor::Wants::more && !outage().empty()) {
        refuse(client);
    } else if (client.wants == FrontDoor::Wants::memory) {
        queries_.forward(client);
    }
}

// Why no client gets a new session now; empty if clients may. A draining server accepts only connections of existing sessions.
std::string_view Reception::outage() const {
    return stopping_ ? "the server is stopping" : std::string_view(workers_.outage());
}

void Reception::refuse(WaitingClient & client) {
    client.wants = FrontDoor::Wants::more;
    if (!client.client.refuse(outage())) {
        clients_.drop(client);
    }
}

void Reception::serve_all() {
    for (WaitingClient & client : clients_.all()) {
        if (client.closing) {
            continue;
        }
        if (client.wants == FrontDoor::Wants::more && client.client.deadline() <= Clock::now()) {
            if (!client.client.is_refused()) {
                log_warning("dropping {}: no complete handshake or command within {} s", client.client.peer(),
                            tunable::handshake_timeout.count());
            }
            clients_.drop(client);
        } else if (client.has_token()) {
            admission_.hand_over_by_token(client);
        } else {
            serve(client);
        }
    }
    admission_.serve_queue();
    contention_.update(Clock::now());
    half_open_.update(Clock::now());
    clients_.remove_closing();
    report_dropped();
}

void Reception::report_dropped() {
    unreported_ += clients_.take_dropped();
    if (unreported_ > 0 && Clock::now() >= report_again_at_) {
        log_warning("too many clients without a session: dropped {}, of the addresses that have most", unreported_);
        unreported_ = 0;
        report_again_at_ = Clock::now() + tunable::drop_report_pause;
    }
}

TimePoint Reception::next_deadline() const {
    TimePoint next = std::min(contention_.next_update(), half_open_.next_update());
    for (const TimePoint again : {accept_again_at_, admission_.retry_at()}) {
        if (again > Clock::now()) {
            next = std::min(next, again);
        }
    }
    for (const WaitingClient & client : clients_.all()) {
        if (client.wants == FrontDoor::Wants::more) {
            next = std::min(next, client.client.deadline());
        } else if (client.wants_new_session() && client.report_at() > Clock::now()) {
            next = std::min(next, client.report_at());
        } else if (client.token_is_unknown) {
            next = TimePoint::min();  // now
        }
    }
    return next;
}

}  // namespace caravan::server
