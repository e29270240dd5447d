#include "server/supervisor/contention.h"

#include <algorithm>
#include <set>

#include "tunables/supervisor.h"

namespace caravan::server {

std::vector<const WaitingClient *> Contention::waiting_long_enough(TimePoint now) {
    std::vector<const WaitingClient *> waiting;
    for (const WaitingClient & client : clients_.all()) {
        if (!client.wants_new_session() || slots_.verdict(client.address) != SessionSlots::Verdict::server_full) {
            continue;
        }
        if (now < client.last_received + tunable::min_contention_wait) {
            next_update_ = std::min(next_update_, client.last_received + tunable::min_contention_wait);
        } else {
            waiting.push_back(&client);
        }
    }
    return waiting;
}

void Contention::set_idle_limit(WorkerProcess & worker, bool contended) const {
    const auto limit = static_cast<uint32_t>(contended ? idle_limit_.count() : 0);
    if (send_control(worker.control.get(), {.kind = ControlMessage::Kind::contend, .number = limit})) {
        worker.idle_limit_sent = contended;
    }
}

void Contention::update(TimePoint now) {
    next_update_ = no_deadline;
    const std::vector<const WaitingClient *> waiting = waiting_long_enough(now);
    if (!waiting.empty() && now < last_asked_ + tunable::contention_response_time) {
        next_update_ = std::min(next_update_, last_asked_ + tunable::contention_response_time);
        return;
    }
    std::vector<WorkerProcess *> serving;  // sorted: asked longest ago first
    for (WorkerProcess & worker : workers_.all()) {
        if (worker.state == WorkerProcess::State::serving && worker.control) {
            serving.push_back(&worker);
        }
    }
    std::ranges::stable_sort(serving, {}, &WorkerProcess::asked_to_end_at);
    std::set<WorkerProcess *> asked;
    for (const WaitingClient * client : waiting) {
        const auto worker = std::ranges::find_if(serving, [&](WorkerProcess * other) {
            return !asked.contains(other) && slots_.held_by(other->address) > slots_.held_by(client->address);
        });
        if (worker != serving.end()) {
            asked.insert(*worker);
        }
    }
    for (WorkerProcess * worker : serving) {
        if (asked.contains(worker)) {
            worker->asked_to_end_at = last_asked_ = now;
        }
        if (worker->idle_limit_sent != asked.contains(worker)) {
            set_idle_limit(*worker, asked.contains(worker));
        }
    }
    if (!asked.empty()) {
        next_update_ = std::min(next_update_, now + tunable::contention_response_time);
    }
}

}  // namespace caravan::server
