// The graphs that sessions leave to later workers. worker_pool.cc has the rest of WorkerPool.
#include <algorithm>

#include "base/log.h"
#include "platform/shared_memory.h"
#include "server/supervisor/worker_pool.h"
#include "tunables/session.h"
#include "tunables/supervisor.h"

namespace caravan::server {

// A worker that has loaded gets memory for the graphs of its session, and soon the graphs of the last one.
void WorkerPool::prepare(WorkerProcess & worker) {
    if (!options_.keep_graphs || warm_up_failures_ >= tunable::max_warm_up_failures ||
        std::ranges::all_of(devices(), [](const ControlMessage & device) { return device.is_cpu != 0; })) {
        return;
    }
    auto memory = platform::make_shared_memory(tunable::warm_up_bytes);
    if (!memory) {
        log_debug("sessions leave no graphs to later ones: {}", memory.error().text);
        return;
    }
    if (send_control(worker.control.get(), {.kind = ControlMessage::Kind::keep}, memory->get())) {
        worker.graphs = std::move(*memory);
        worker.warm_up_at = Clock::now() + tunable::warm_up_delay;
    }
}

// The session of `worker` has left graphs. Sessions that computed nothing leave those of an earlier one in place.
void WorkerPool::keep_graphs(WorkerProcess & worker, uint64_t size) {
    if (size == 0 || size > tunable::warm_up_bytes || !worker.graphs) {
        return;
    }
    last_graphs_ = std::move(worker.graphs);
    last_graphs_size_ = size;
    const auto found = std::ranges::find(workers_, WorkerProcess::State::spare, &WorkerProcess::state);
    if (found != workers_.end()) {
        found->warm_up_at = TimePoint::min();
        begin_warm_ups();
    }
}

void WorkerPool::begin_warm_ups() {
    for (WorkerProcess & worker : workers_) {
        if (worker.state == WorkerProcess::State::spare && worker.warm_up_at <= Clock::now()) {
            worker.warm_up_at = no_deadline;
            warm_up(worker);
        }
    }
}

void WorkerPool::warm_up(WorkerProcess & worker) {
    if (!last_graphs_ || warm_up_failures_ >= tunable::max_warm_up_failures || worker.asked_to_stop || !worker.control) {
        return;
    }
    const ControlMessage message{.kind = ControlMessage::Kind::warm, .number = worker.warm_ups + 1,
                                 .memory_total = last_graphs_size_};
    if (send_control(worker.control.get(), message, last_graphs_.get())) {
        ++worker.warm_ups;
        worker.is_warming_up = true;
        worker.deadline = Clock::now() + tunable::warm_up_timeout;
    }
}

// `how` the spare worker failed. The next one does not compute the same graphs.
void WorkerPool::warm_up_failed(std::string_view how) {
    last_graphs_.reset();
    ++warm_up_failures_;
    log_warning("a worker process that computed graphs of the last session, to be ready for the next, {}; another one starts{}",
                how, warm_up_failures_ < tunable::max_warm_up_failures ? "" : ". Others compute none any more");
}

}  // namespace caravan::server
