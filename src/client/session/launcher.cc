#include "client/session/launcher.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "client/session/program_clock.h"
#include "client/session/server_transfers.h"

namespace caravan::client {
namespace {

// A read of this many bytes confirms a launch.
constexpr size_t confirming_bytes = 16;

std::optional<ResultRead> first_bytes_of_output(const ggml_cgraph & graph, const HandleOf & handle_of) {
    for (int i = graph.n_nodes; i-- > 0;) {
        const ggml_tensor & node = *graph.nodes[i];
        const ggml_backend_buffer_t buffer = buffer_of(node);
        const uint64_t handle = buffer == nullptr ? 0 : handle_of(buffer);
        if ((node.flags & GGML_TENSOR_FLAG_OUTPUT) != 0 && !ggml_is_empty(&node) && handle != 0) {
            const size_t size = std::min<size_t>(ggml_nbytes(&node), confirming_bytes);
            return ResultRead{encode_region(node, handle), range_of(node, 0, size), 0, size};
        }
    }
    return std::nullopt;
}

}  // namespace

ggml_status Launcher::launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) {
    const ProgramClock::Pause pause;
    queue_.await_upgrade();
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure()) {
        queue_.report_failure();
        queue_.repeat_failure();
        return GGML_STATUS_FAILED;
    }
    queue_.uploads().save_digests();
    if (!is_reachable(lock)) {
        return GGML_STATUS_FAILED;
    }
    Stream & stream = queue_.stream();
    if (auto failure = stream.take_launch_failure()) {
        return fail_launch(lock, *failure);
    }
    requested_.reset();
    LaunchPrediction & prediction = queue_.prediction();
    UndeliveredRegions & undelivered = queue_.undelivered();
    prediction.begin_launch();
    if (!undelivered.empty() && undelivered.touched_by(collect_graph(graph, handle_of).footprint)) {
        log_error("RPC server {}: graph not launched: its input was to come from a server that is lost",
                  queue_.endpoint().text());
        return GGML_STATUS_FAILED;
    }
    const Launch prepared = queue_.commands().prepare(device, graph, handle_of);
    if (prepared.is_empty) {
        return GGML_STATUS_SUCCESS;
    }
    if (Loading & loading = queue_.uploads().loading(); loading.is_under_way()) {
        loading.end();
        recorder_.loaded(stream.counts());
    }
    recorder_.count_launch();
    buffers_.end_unmarked_writes();
    queue_.send_held(prepared.footprint());
    std::ranges::copy(prepared.bytes, stream.append(prepared.bytes.size()).begin());
    stream.count_launch();
    prediction.launched(prepared.kept, ProgramClock::now());
    if (const ResultRead * read = prediction.predicted_read(); read != nullptr && !undelivered.overlaps(read->range)) {
        const ResultRead prefetched = *read;
        prediction.prefetch(prefetched);
        const auto ticket = request(lock, prefetched);
        if (is_grouped_) {
            requested_ = ticket;
            queue_.flush(lock);
            return queue_.failure() ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS;
        }
        return await_first_bytes(lock, ticket);
    }
    const auto output = prediction.should_confirm() ? first_bytes_of_output(graph, handle_of) : std::nullopt;
    if (output) {
        return await_first_bytes(lock, request(lock, *output));
    }
    if (!prediction.hold() && queue_.relays().empty()) {
        queue_.flush(lock);
    }
    return queue_.failure() ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS;
}

// The status of a launch is the last chance to report a lost server to the program.
bool Launcher::is_reachable(Lock & lock) {
    Stream & stream = queue_.stream();
    if (stream.idle_time() > idle_before_probe_ && queue_.relays().empty()) {
        // A machine that was switched off closes no connection, so an idle one is probed with a round trip.
        queue_.commands().post(wire::Command::device_count);
        uint32_t count = 0;
        queue_.await(lock, stream.expect(mutable_bytes(&count, sizeof count)));
    } else if (!stream.confirm(lock)) {
        queue_.report_failure();
    }
    return !queue_.failure();
}

// The launch is in the batch. Appends the read.
Stream::Ticket Launcher::request(Lock &, const ResultRead & read) {
    queue_.send_held(read.range);
    queue_.commands().read(read.region, read.offset, read.size);
    return queue_.stream().expect_deferred(read.size);
}

ggml_status Launcher::await_result() {
    const ProgramClock::Pause pause;
    auto lock = queue_.lock();
    const auto requested = std::exchange(requested_, std::nullopt);
    return requested && queue_.prediction().has_prefetched() ? await_first_bytes(lock, *requested) : GGML_STATUS_SUCCESS;
}

// Sends the batch and waits until the requested result begins to arrive.
ggml_status Launcher::await_first_bytes(Lock & lock, Stream::Ticket ticket) {
    Stream & stream = queue_.stream();
    const TimePoint begin = Clock::now();
    queue_.relays().fill_before(lock, ticket.position);
    if (!stream.await_first_bytes(lock)) {
        queue_.report_failure();
    }
    queue_.prediction().result_arrived(Clock::now() - begin, ProgramClock::now());
    if (!queue_.prediction().has_prefetched()) {
        stream.discard();  // these bytes only confirm the launch
    }
    if (queue_.failure()) {
        return GGML_STATUS_FAILED;
    }
    if (const auto failure = stream.take_launch_failure()) {
        queue_.discard_prefetched();
        return fail_launch(lock, *failure);
    }
    return GGML_STATUS_SUCCESS;
}

ggml_status Launcher::fail_launch(Lock & lock, const std::string & why) {
    is_investigated_ = false;
    log_error("RPC server {}: graph not computed: {}{}", queue_.endpoint().text(), why, is_grouped_ ? " " + ranks_ : "");
    lock.unlock();
    transfers_.probe_sources();
    return GGML_STATUS_FAILED;
}

void Launcher::investigate_failure(Lock & lock) {
    if (queue_.stream().has_launch_failure() && !std::exchange(is_investigated_, true)) {
        lock.unlock();
        transfers_.probe_sources();
        lock.lock();
    }
}

}  // namespace caravan::client
