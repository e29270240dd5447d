#include "server/supervisor/admission.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/counted.h"
#include "base/log.h"
#include "net/socket.h"
#include "server/ipc/server_log.h"
#include "server/supervisor/banner.h"
#include "server/supervisor/half_open.h"
#include "tunables/supervisor.h"

namespace caravan::server {

void Admission::serve_queue() {
    std::vector<std::string> held;
    for (const WorkerProcess & worker : workers_.all()) {
        if (worker.state == WorkerProcess::State::serving) {
            held.push_back(worker.address);
        }
    }
    slots_.set_held(held);
    uint32_t position = 0;
    const auto is_preferred = [this, now = Clock::now()](const WaitingClient & client) {
        return client.client.is_confirmed() && HalfOpenSessions::has_overdue(workers_, client.address, now);
    };
    for (WaitingClient * client : clients_.queue(slots_, is_preferred)) {
        const auto verdict = slots_.verdict(client->address);
        if (client->client.awaits_confirmation()) {
            ++position;
        } else if (verdict != SessionSlots::Verdict::free || !begin_session(*client)) {
            send_position(*client, ++position, verdict);
        }
    }
}

bool Admission::begin_session(WaitingClient & client) {
    WorkerProcess * worker = workers_.spare();
    if (worker == nullptr || Clock::now() < retry_at_) {
        return false;
    }
    ControlMessage message{.kind = ControlMessage::Kind::session,
                           .number = static_cast<uint32_t>(next_session_),
                           .prefix_size = static_cast<uint32_t>(client.client.prefix().size()),
                           .is_native = client.client.is_native(),
                           .token = client.client.session_token()};
    message.set_text(client.client.peer());
    std::ranges::copy(client.client.prefix(), message.prefix);
    if (const auto handed_over = workers_.begin_session(*worker, message, client.address, client.client.fd()); !handed_over) {
        retry_at_ = Clock::now() + tunable::handover_retry_pause;
        if (!std::exchange(failure_is_logged_, true)) {
            log_warning("{} waits for a session: {}; trying again", client.client.peer(), handed_over.error().text);
        }
        return false;
    }
    failure_is_logged_ = false;
    const UniqueFd socket = client.client.release();
    client.closing = true;
    slots_.note_begun(client.address);
    ++next_session_;
    warn_of_shared_cores();
    log_event(client.address, "Accepted client connection from {} (session {}){}", worker->client, worker->session,
              net::peer_credentials(socket.get()));
    workers_.keep_spare();
    return true;
}

void Admission::send_position(WaitingClient & client, uint32_t position, SessionSlots::Verdict verdict) {
    using Reason = wire::AdmissionReply::Reason;
    using Verdict = SessionSlots::Verdict;
    if (verdict != Verdict::free && Clock::now() < client.report_at()) {
        return;
    }
    if (verdict != Verdict::free && !client.logged) {
        client.logged = true;
        log_warning("{} waits for a session: {} in use ({})", client.client.peer(), slots_.held(),
                    verdict == Verdict::server_full ? "--max-sessions" : "--max-per-address");
    }
    const wire::AdmissionReply reply{position,
                                      verdict == Verdict::free          ? Reason::starting
                                      : verdict == Verdict::server_full ? Reason::server_full
                                                                        : Reason::address_full,
                                      static_cast<uint32_t>(slots_.held())};
    if (reply.position == client.sent_position.position && reply.reason == client.sent_position.reason) {
        return;
    }
    client.sent_position = reply;
    client.sent_position_at = Clock::now();
    if (!client.client.send_position(reply)) {
        clients_.drop(client);
    }
}

void Admission::hand_over_by_token(WaitingClient & client) {
    const auto command = client.client.first_command();
    WorkerProcess * worker = workers_.owner(client.client.token());
    const auto waits = [&](const WaitingClient & other) {
        return other.wants_new_session() && other.client.session_token() == client.client.token();
    };
    if (worker == nullptr && std::ranges::any_of(clients_.all(), waits)) {
        return;  // until its session has a worker
    }
    // A worker registers a token before its client learns it, but the message may come after those of this round.
    if (worker == nullptr && !std::exchange(client.token_is_unknown, true)) {
        return;
    }
    client.closing = true;
    if (worker == nullptr) {
        if (command == wire::command_lifeline) {  // the session ended before it arrived
            log_debug("closing a connection of {} that only shows that its process is alive: its session or link has ended",
                      client.client.peer());
        } else if (command == wire::command_link) {
            log_warning("dropping {}: it opens a link to a session of this server with a token that is wrong, or of a session "
                        "that has ended", client.client.peer());
        } else {
            log_warning("dropping {}: it resumes a session or link that has ended (--session-grace), or that began before this "
                        "server was started", client.client.peer());
        }
        return;
    }
    ControlMessage message{.kind = ControlMessage::Kind::link,
                           .prefix_size = static_cast<uint32_t>(client.client.prefix().size()),
                           .resumes = client.client.resumes(),
                           .shares_memory = client.client.shares_memory(),
                           .token = client.client.token()};
    std::ranges::copy(client.client.prefix(), message.prefix);
    const UniqueFd socket = client.client.release();
    // A client presents its session's token only to resume the session (also with an offer of RDMA first), or with a lifeline.
    const bool resumes_session = worker->token == client.client.token() && command != wire::command_lifeline;
    if (const auto handed_over = workers_.hand_over(*worker, message, socket.get(), resumes_session); !handed_over) {
        log_warning("dropping {}, which came for session {}: {}", client.client.peer(), worker->session,
                    handed_over.error().text);
        return;
    }
    if (command == wire::command_lifeline) {
        return;
    }
    const bool is_again = resumes_session || command == wire::command_resume;
    log_event(client.address, "{} {} (session {})",
              command == wire::command_rdma_offer || command == wire::command_rdma_rails ? "Connected for RDMA:"
              : is_again                                                                 ? "Connected again:"
                                                                                         : "Accepted a link from the server at",
              client.client.peer(), worker->session);
}

void Admission::warn_of_shared_cores() {
    const size_t threads = static_cast<size_t>(options_.worker.threads), sessions = workers_.serving();
    const size_t cores = std::thread::hardware_concurrency();
    if (cores_are_logged_ || !lends_cpu(workers_) || sessions < 2 || cores == 0 || sessions * threads <= cores) {
        return;
    }
    cores_are_logged_ = true;
    log_warning("{} sessions with {} each share {}: while several compute, each is slower than its share. Use --threads {}, or "
                "--max-sessions", sessions, counted(threads, "thread"), counted(cores, "core"),
                std::max<size_t>(1, cores / sessions));
}

}  // namespace caravan::server
