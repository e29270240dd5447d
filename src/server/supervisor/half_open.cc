#include "server/supervisor/half_open.h"

#include <algorithm>

#include "platform/socket.h"
#include "tunables/net.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

bool is_half_open(const WorkerProcess & worker) {
    return worker.state == WorkerProcess::State::serving && !worker.has_begun && !worker.end_reported;
}

// When the client should have sent a command. A distant one has more time: it needs up to five round trips.
TimePoint due_at(const WorkerProcess & worker) {
    milliseconds patience = tunable::half_open_patience;
    if (!worker.connections.empty()) {
        const auto round_trip = platform::round_trip_of(worker.connections.front().get());
        const auto needed = std::chrono::ceil<milliseconds>(tunable::half_open_round_trips * round_trip);
        patience = std::clamp<milliseconds>(needed, patience, tunable::handshake_timeout);
    }
    return worker.began_at + patience;
}

}  // namespace

bool HalfOpenSessions::has_overdue(WorkerPool & workers, const std::string & address, TimePoint now) {
    return std::ranges::any_of(workers.all(), [&](const WorkerProcess & worker) {
        return is_half_open(worker) && worker.address == address && due_at(worker) <= now;
    });
}

// The session that is overdue for longest, of those that the client may replace.
WorkerProcess * HalfOpenSessions::find(const WaitingClient & client, TimePoint now) {
    const bool any_address = slots_.verdict(client.address) == SessionSlots::Verdict::server_full;
    WorkerProcess * first = nullptr;
    TimePoint first_due = no_deadline;
    for (WorkerProcess & worker : workers_.all()) {
        const bool may_replace =
            worker.address == client.address ||
            (any_address && slots_.held_by(worker.address) > slots_.held_by(client.address));
        if (!is_half_open(worker) || !may_replace) {
            continue;
        }
        const TimePoint due = due_at(worker);
        if (due > now) {
            next_update_ = std::min(next_update_, due);
        } else if (due < first_due) {
            first = &worker;
            first_due = due;
        }
    }
    return first;
}

void HalfOpenSessions::update(TimePoint now) {
    next_update_ = no_deadline;
    for (const WaitingClient & client : clients_.all()) {
        if (!client.wants_new_session() || !client.client.is_confirmed() ||
            slots_.verdict(client.address) == SessionSlots::Verdict::free) {
            continue;
        }
        if (WorkerProcess * worker = find(client, now)) {
            workers_.end_half_open(*worker);
            next_update_ = now;  // the queue is served again
        }
    }
}

}  // namespace caravan::server
