#include "server/graph/graph_runs.h"

#include "base/formatted.h"
#include "server/ops/op_check.h"

namespace caravan::server {

Result<> GraphRuns::launch(uint32_t device, Graph & graph) {
    ++launches_;
    if (ggml_graph_n_nodes(graph.graph) == 0) {
        return {};
    }
    // Where the indices are, an asynchronous device may still be writing.
    const bool reads_indices = !graph.indices.empty() && devices_.is_asynchronous(device);
    if (devices_.has_queue(device) || devices_.is_awaited(device) || reads_indices) {
        if (auto before = synchronize(device); !before) {
            return before;
        }
    }
    bool is_exclusive = false;
    for (const uint32_t other : graph.devices) {
        if (other != device) {
            is_exclusive = true;
            if (auto before = synchronize(other); !before) {
                return before;
            }
        }
    }
    if (auto good = check_indices(graph.indices); !good) {
        return good;
    }
    const TimePoint begin = Clock::now();
    const ggml_status status = devices_.compute(device, graph.graph);
    if (!devices_.has_queue(device) && !devices_.is_asynchronous(device)) {  // the others report their time when they are done
        busy_ += Clock::now() - begin;
    }
    if (status != GGML_STATUS_SUCCESS) {
        return std::unexpected(failure(device, status));
    }
    return is_exclusive ? synchronize(device) : Result<>();
}

Result<> GraphRuns::synchronize(uint32_t device) {
    if (!devices_.is_running(device)) {
        return {};
    }
    const TimePoint begin = Clock::now();
    const Run run = devices_.synchronize(device);
    busy_ += run.end != TimePoint() ? run.end - run.begin : Clock::now() - begin;
    if (run.end != TimePoint()) {
        spans_.record(wire::computing(device), run.begin, run.end);
    }
    if (run.status == GGML_STATUS_SUCCESS) {
        return {};
    }
    if (on_failed) {
        on_failed(device);
    }
    return std::unexpected(failure(device, run.status));
}

Result<> GraphRuns::synchronize_and_read(uint32_t device, const ggml_tensor & tensor, uint64_t offset, MutableBytes to) {
    const bool is_ahead = !to.empty() && devices_.is_running(device) && devices_.is_asynchronous(device) &&
                          !devices_.is_awaited(device);
    if (is_ahead) {
        devices_.read_async(device, tensor, offset, to);
    }
    auto waited = synchronize(device);
    if (!is_ahead && !to.empty()) {
        ggml_backend_tensor_get(&tensor, to.data(), offset, to.size());
    }
    return waited;
}

Result<> GraphRuns::synchronize() {
    Result<> all;
    for (uint32_t device = 0; device < devices_.count(); ++device) {
        if (auto waited = synchronize(device); !waited && all) {
            all = std::move(waited);
        }
    }
    return all;
}

bool GraphRuns::is_unattended() const {
    for (uint32_t device = 0; device < devices_.count(); ++device) {
        if (devices_.is_asynchronous(device) && devices_.is_running(device) && !devices_.is_awaited(device)) {
            return true;
        }
    }
    return false;
}

Result<> GraphRuns::attend() {
    if (devices_.count() == 1) {
        return synchronize();
    }
    for (uint32_t device = 0; device < devices_.count(); ++device) {
        devices_.await(device);
    }
    return {};
}

Error GraphRuns::failure(uint32_t device, ggml_status status) const {
    return {Errc::unsupported, formatted("device {} could not compute the graph: {}",
                                         ggml_backend_dev_name(devices_.device(device)), ggml_status_to_string(status))};
}

}  // namespace caravan::server
