#include "server/session/native_graphs.h"

#include <algorithm>

#include "base/log.h"

namespace caravan::server {
namespace {

// The address after the tensor's last byte. An invalid tensor counts as empty.
uint64_t end_of(const wire::GraphTensor & tensor) {
    const uint64_t bytes = checked_bytes(region_of(tensor)).value_or(0);
    return tensor.address + std::min(bytes, UINT64_MAX - tensor.address);
}

}  // namespace

NativeGraphs::NativeGraphs(SessionContext & context)
    : context_(context),
      graphs_(wire::max_graph_slots),
      store_(context, 1, [&context](uint32_t device) { return context.synchronize(device); }),
      lacks_input_(context.devices.count()),
      is_stale_(context.devices.count()),
      last_launched_(context.devices.count()) {
    context_.runs.on_failed = [this](uint32_t device) {
        is_stale_[device] = true;
        if (last_launched_[device] != nullptr) {
            mark_results(*last_launched_[device], true);
        }
    };
}

Result<> NativeGraphs::define(uint64_t size) {
    return context_.serve<wire::GraphRequest>([&](const auto & request) -> Result<> {
        const uint16_t slot = request.slot, base = request.base;
        const uint32_t device = request.device;
        if (slot >= graphs_.size() || (base >= graphs_.size() && base != wire::no_base)) {
            return fail(Errc::invalid_argument, "graph slots {} and {}: only {} exist", slot, base, graphs_.size());
        }
        if (auto good = context_.devices.check(device); !good) {
            return good;
        }
        KeptGraph & kept = graphs_[slot];
        const uint64_t needed = building_bytes(size, std::min(uint32_t{request.n_tensors}, wire::max_graph_tensors));
        if (auto room = store_.evict(needed, built(kept)); !room) {
            return room;
        }
        auto building = context_.memory.claim_host(needed);  // held while the payload arrives
        const auto difference =
            building.and_then([&](const MemoryClaim &) { return context_.read_payload(size - sizeof request); });
        if (!difference) {
            return std::unexpected(difference.error());
        }
        auto tensors = wire::decode_difference(base == wire::no_base ? std::span<const wire::GraphTensor>()
                                                                     : graphs_[base].tensors,
                                               request.n_tensors, *difference);
        if (!tensors) {
            return std::unexpected(tensors.error());
        }
        kept_tensors_ += tensors->size() - kept.tensors.size();
        if (kept_tensors_ > wire::max_session_tensors) {
            return fail(Errc::no_memory, "the session's graphs exceed {} tensors in total", wire::max_session_tensors);
        }
        if (built(kept) != nullptr) {
            if (auto waited = context_.synchronize(kept.device); !waited) {  // it may be running
                return waited;
            }
        }
        store_.erase(0, slot);
        kept.tensors_memory = {};
        kept.tensors = std::move(*tensors);
        kept.device = device;
        kept.is_given = true;
        kept.was_built = false;
        *building = {};
        auto claim = context_.memory.claim_host(kept.tensors.size() * sizeof(wire::GraphTensor));
        if (!claim) {
            return std::unexpected(claim.error());
        }
        kept.tensors_memory = std::move(*claim);
        return launch(kept);
    });
}

// LAUNCH builds an evicted graph again. Its tensors stay, because later graphs may be sent as differences to them.
Result<StoredGraph *> NativeGraphs::build(KeptGraph & kept) {
    return store_.evict(building_bytes(0, kept.tensors.size()))
        .and_then([&] {
            return build_graph(describe_graph(kept.tensors), context_.devices.device(kept.device), context_.buffers);
        })
        .and_then([&](Graph graph) {
            context_.runs.count_built();
            kept.was_built = true;
            return store_.claim(kept.device, std::move(graph));
        })
        .transform([&](StoredGraph graph) { return &store_.insert(0, slot_of(kept), std::move(graph)); });
}

std::vector<GraphView> NativeGraphs::graphs_of_accelerators() const {
    std::vector<GraphView> out;
    for (const KeptGraph & kept : graphs_) {
        if (kept.was_built && !context_.devices.is_cpu(kept.device)) {
            out.push_back({kept.device, kept.tensors});
        }
    }
    return out;
}

// Reports a failure to the client and continues the session.
Result<> NativeGraphs::launch(KeptGraph & kept) {
    auto launched = run(kept);
    mark_results(kept, !launched);
    last_launched_[kept.device] = &kept;
    is_stale_[kept.device] = !launched;
    return context_.replies.report_failure(std::move(launched));
}

// Considers tensors that the graph only reads. (A KV cache is read and written; its unwritten parts stay valid.)
bool NativeGraphs::reads_stale(const KeptGraph & kept) const {
    const StaleMemory & stale = context_.stale;
    return !stale.empty() && std::ranges::any_of(kept.tensors, [&](const wire::GraphTensor & tensor) {
        return tensor.is_node == 0 && stale.overlaps(tensor.address, end_of(tensor));
    });
}

// Marks or clears the graph's results, except views into older contents. Also used for a graph that is refused.
void NativeGraphs::mark_results(const KeptGraph & kept, bool are_stale) {
    StaleMemory & stale = context_.stale;
    if (!are_stale && stale.empty()) {
        return;
    }
    for (const wire::GraphTensor & tensor : kept.tensors) {
        if (tensor.is_node != 0 && tensor.view_src == 0) {
            are_stale ? stale.mark(tensor.address, end_of(tensor)) : stale.clear(tensor.address, end_of(tensor));
        }
    }
}

Result<> NativeGraphs::run(KeptGraph & kept) {
    StoredGraph * graph = built(kept);
    if (graph == nullptr) {
        const auto rebuilt = build(kept);
        if (!rebuilt) {
            log_warning("refused a graph: {}", rebuilt.error().text);
            return std::unexpected(rebuilt.error());
        }
        graph = *rebuilt;
    }
    bool lacks_input = false;
    for (const uint32_t device : graph->graph.devices) {
        lacks_input = lacks_input || lacks_input_[device];
        lacks_input_[device] = false;
    }
    if (lacks_input) {
        return fail(Errc::unavailable, "its input was not received from another server");
    }
    if (reads_stale(kept)) {
        return fail(Errc::unavailable, "its input is the result of a failed launch");
    }
    return store_.launch(*graph);
}

Result<> NativeGraphs::launch() {
    return context_.serve<wire::LaunchRequest>([&](const auto & request) -> Result<> {
        const uint16_t slot = request.slot;
        if (slot >= graphs_.size() || !graphs_[slot].is_given) {
            return context_.replies.send_text(wire::ReplyKind::launch_failed, formatted("graph slot {} is empty", slot));
        }
        return launch(graphs_[slot]);
    });
}

Result<> NativeGraphs::supports(uint64_t size) {
    return context_.serve_on_device<wire::SupportsRequest>([&](const auto & request) -> Result<> {
        const uint64_t needed = building_bytes(size, std::min(uint32_t{request.n_tensors}, wire::max_graph_tensors));
        if (auto room = store_.evict(needed); !room) {
            return room;
        }
        const auto building = context_.memory.claim_host(needed);
        const auto difference =
            building.and_then([&](const MemoryClaim &) { return context_.read_payload(size - sizeof request); });
        if (!difference) {
            return std::unexpected(difference.error());
        }
        auto tensors = wire::decode_difference({}, request.n_tensors, *difference);
        if (!tensors) {
            return std::unexpected(tensors.error());
        }
        const auto supported = supported_nodes(describe_graph(std::move(*tensors)), context_.devices.device(request.device));
        if (!supported) {
            return context_.replies.send_text(wire::ReplyKind::refused, supported.error().text);
        }
        return context_.replies.send_bytes(std::as_bytes(std::span(*supported)));
    });
}

}  // namespace caravan::server
