#include "server/supervisor/open_files.h"

#include <algorithm>

#include "base/counted.h"
#include "base/log.h"
#include "platform/limits.h"
#include "server/supervisor/worker_pool.h"
#include "tunables/links.h"
#include "tunables/supervisor.h"

namespace caravan::server {

size_t fit_open_files(ServerOptions & options) {
    constexpr size_t own = 16;  // listeners, signals, standard streams, the spare worker, a loading worker, the indexer
    constexpr size_t of_session = 2, of_busy_session = 1 + WorkerPool::max_connections + tunable::max_unopened_memories;
    constexpr size_t of_graphs = 1;  // of a session
    constexpr size_t most = tunable::max_waiting_clients, least = tunable::min_waiting_clients;
    // Descriptors in flight count per user. The kernel lets a process send descriptors while their number is within its own
    // limit, up to 253 with one message. A worker's limit therefore lies below this process's by one such message and the
    // descriptors in flight to all workers, so that a compromised worker cannot stop this process from sending (control.h).
    constexpr size_t of_message = 253, of_channel = 24;
    constexpr size_t usual_of_worker = tunable::max_worker_files, least_of_worker = tunable::min_worker_files;
    const auto sessions = static_cast<size_t>(options.max_sessions);
    const size_t above_workers = of_message + sessions * of_channel;
    auto files = platform::open_file_limit();
    if (!files) {
        return most;
    }
    const size_t wanted = std::max(own + most + sessions * (of_busy_session + of_graphs), usual_of_worker + above_workers);
    if (files->now < wanted && files->now < files->most) {
        files->now = std::min<uint64_t>(files->most, wanted);
        platform::set_open_file_limit(*files);
    }
    const size_t for_worker = files->now - std::min<uint64_t>(files->now, above_workers);
    options.worker.open_files = std::min<uint64_t>(std::clamp(for_worker, least_of_worker, usual_of_worker), files->now);
    const size_t left = std::max<uint64_t>(files->now, own + least + of_session) - own;
    if (left < least + sessions * of_session) {
        options.max_sessions = static_cast<int>((left - least) / of_session);
        options.max_per_address = std::min(options.max_per_address, options.max_sessions);
        log_warning("{} open files (ulimit -n) are enough for {}: serving no more at once", files->now,
                    counted(static_cast<uint64_t>(options.max_sessions), "session"));
    }
    const auto served = static_cast<size_t>(options.max_sessions);
    options.worker.keep_graphs = options.worker.keep_spare && left >= least + served * (of_session + of_graphs);
    return std::min(left - served * (of_session + (options.worker.keep_graphs ? of_graphs : 0)), most);
}

}  // namespace caravan::server
