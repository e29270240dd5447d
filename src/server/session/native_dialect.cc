#include "server/session/native_dialect.h"

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

NativeDialect::NativeDialect(SessionContext & context)
    : context_(context),
      slots_(wire::max_tensor_slots),
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

const char * NativeDialect::name_of(wire::Command command) const {
    return wire::command_name(static_cast<wire::NativeCommand>(command));
}

wire::PayloadBounds NativeDialect::bounds_of(wire::Command command) const {
    return wire::payload_bounds(static_cast<wire::NativeCommand>(command));
}

bool NativeDialect::may_overtake_finds(wire::Command command) const {
    const auto native = static_cast<wire::NativeCommand>(command);
    return native == wire::NativeCommand::find || native == wire::NativeCommand::declare;
}

Result<> NativeDialect::serve(wire::Command command, uint64_t size) {
    context_.replies.set_native();
    switch (static_cast<wire::NativeCommand>(command)) {
        case wire::NativeCommand::declare: return declare();
        case wire::NativeCommand::write: return write(size);
        case wire::NativeCommand::read: return read();
        case wire::NativeCommand::fill: return fill();
        case wire::NativeCommand::copy: return copy();
        case wire::NativeCommand::initialize: return initialize();
        case wire::NativeCommand::graph: return graph(size);
        case wire::NativeCommand::launch: return launch();
        case wire::NativeCommand::supports: return supports(size);
        case wire::NativeCommand::invite:
            return context_.replies.send(context_.links == nullptr ? uint64_t{0} : context_.links->invite());
        case wire::NativeCommand::connect: return connect(size);
        case wire::NativeCommand::push: return push();
        case wire::NativeCommand::take: return take_push();
        case wire::NativeCommand::facts:
            return context_.replies.send(wire::SessionFacts{.has_cache = context_.lookups.has_cache()});
        case wire::NativeCommand::find: return find();
        case wire::NativeCommand::clock: return clock();
        case wire::NativeCommand::spans: return spans();
    }
    return fail(Errc::protocol, "unknown command");
}

void NativeDialect::drop_graphs_using(uint64_t buffer) { store_.drop_using(buffer); }

// Allocates memory as bytes arrive, because the announced size is not trusted.
Result<std::vector<std::byte>> NativeDialect::read_payload(uint64_t size) {
    std::vector<std::byte> out;
    auto read = context_.in.read_pieces(size, [&](ConstBytes piece) { out.insert(out.end(), piece.begin(), piece.end()); });
    if (!read) {
        return std::unexpected(read.error());
    }
    return out;
}

Result<CheckedRegion> NativeDialect::region(uint16_t slot, uint64_t offset, uint64_t size) {
    if (slot >= slots_.size() || !slots_[slot]) {
        return fail(Errc::not_found, "slot {} is not declared", slot);
    }
    return checked_region(*slots_[slot], offset, size, context_.buffers);
}

Result<CheckedRegion> NativeDialect::whole(uint16_t slot) { return region(slot, 0, 0); }

Result<> NativeDialect::declare() {
    return context_.serve<wire::DeclareRequest>([&](const auto & request) -> Result<> {
        const uint16_t slot = request.slot;
        if (slot >= slots_.size()) {
            return fail(Errc::invalid_argument, "slot {} out of range: there are {}", slot, slots_.size());
        }
        slots_[slot] = region_of(request.region);
        return {};
    });
}

Result<> NativeDialect::write(uint64_t size) {
    return context_.serve<wire::WriteRequest>([&](const auto & request) -> Result<> {
        size -= sizeof request;
        return region(request.slot, request.offset, size).and_then([&](CheckedRegion target) {
            return context_.io.write(context_.in, target, size, request.keep != 0);
        });
    });
}

Result<> NativeDialect::read() {
    return context_.serve<wire::ReadRequest>([&](const auto & request) {
        return region(request.slot, request.offset, request.size).and_then([&](CheckedRegion source) {
            return context_.io.read(source, request.size);
        });
    });
}

Result<> NativeDialect::fill() {
    return context_.serve<wire::FillRequest>([&](const auto & request) {
        return region(request.slot, request.offset, request.size).and_then([&](CheckedRegion target) {
            return context_.io.fill(target, request.size, request.value);
        });
    });
}

Result<> NativeDialect::copy() {
    return context_.serve<wire::CopyRequest>([&](const auto & request) -> Result<> {
        auto from = whole(request.from);
        auto to = whole(request.to);
        if (!from || !to) {
            return std::unexpected(!from ? from.error() : to.error());
        }
        return context_.io.copy(*from, *to);
    });
}

Result<> NativeDialect::initialize() {
    return context_.serve<wire::SlotRequest>([&](const auto & request) -> Result<> {
        const uint16_t slot = request.slot;
        return whole(slot).and_then([&](CheckedRegion target) { return context_.io.initialize(target, *slots_[slot]); });
    });
}

Result<> NativeDialect::graph(uint64_t size) {
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
        const auto difference = building.and_then([&](const MemoryClaim &) { return read_payload(size - sizeof request); });
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
Result<StoredGraph *> NativeDialect::build(const KeptGraph & kept) {
    return store_.evict(building_bytes(0, kept.tensors.size()))
        .and_then([&] {
            return build_graph(describe_graph(kept.tensors), context_.devices.device(kept.device), context_.buffers);
        })
        .and_then([&](Graph graph) {
            context_.runs.count_built();
            return store_.claim(kept.device, std::move(graph));
        })
        .transform([&](StoredGraph graph) { return &store_.insert(0, slot_of(kept), std::move(graph)); });
}

// Reports a failure to the client and continues the session.
Result<> NativeDialect::launch(KeptGraph & kept) {
    auto launched = run(kept);
    mark_results(kept, !launched);
    last_launched_[kept.device] = &kept;
    is_stale_[kept.device] = !launched;
    return context_.replies.report_failure(std::move(launched));
}

// Considers tensors that the graph only reads. (A KV cache is read and written; its unwritten parts stay valid.)
bool NativeDialect::reads_stale(const KeptGraph & kept) const {
    const StaleMemory & stale = context_.stale;
    return !stale.empty() && std::ranges::any_of(kept.tensors, [&](const wire::GraphTensor & tensor) {
        return tensor.is_node == 0 && stale.overlaps(tensor.address, end_of(tensor));
    });
}

// Marks or clears the graph's results, except views into older contents. Also used for a graph that is refused.
void NativeDialect::mark_results(const KeptGraph & kept, bool are_stale) {
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

Result<> NativeDialect::run(KeptGraph & kept) {
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

Result<> NativeDialect::launch() {
    return context_.serve<wire::LaunchRequest>([&](const auto & request) -> Result<> {
        const uint16_t slot = request.slot;
        if (slot >= graphs_.size() || !graphs_[slot].is_given) {
            return context_.replies.send_text(wire::AnswerKind::launch_failed, formatted("graph slot {} is empty", slot));
        }
        return launch(graphs_[slot]);
    });
}

Result<> NativeDialect::supports(uint64_t size) {
    return context_.serve_on_device<wire::SupportsRequest>([&](const auto & request) -> Result<> {
        const uint64_t needed = building_bytes(size, std::min(uint32_t{request.n_tensors}, wire::max_graph_tensors));
        if (auto room = store_.evict(needed); !room) {
            return room;
        }
        const auto building = context_.memory.claim_host(needed);
        const auto difference = building.and_then([&](const MemoryClaim &) { return read_payload(size - sizeof request); });
        if (!difference) {
            return std::unexpected(difference.error());
        }
        auto tensors = wire::decode_difference({}, request.n_tensors, *difference);
        if (!tensors) {
            return std::unexpected(tensors.error());
        }
        const auto answers = supported_nodes(describe_graph(std::move(*tensors)), context_.devices.device(request.device));
        if (!answers) {
            return context_.replies.send_text(wire::AnswerKind::refused, answers.error().text);
        }
        return context_.replies.send_bytes(std::as_bytes(std::span(*answers)));
    });
}

Result<> NativeDialect::find() {
    return context_.serve<wire::FindRequest>([&](const auto & request) -> Result<> {
        auto target = region(request.slot, request.offset, request.size);
        if (!target) {
            return std::unexpected(target.error());
        }
        return context_.lookups.find_digest(*target, request.size, request.digest);
    });
}

Result<> NativeDialect::clock() {
    context_.spans.begin_recording();
    return context_.replies.send(Spans::nanoseconds_of(Clock::now()));
}

Result<> NativeDialect::spans() {
    if (auto waited = context_.synchronize(); !waited) {  // includes the spans of running graphs
        return waited;
    }
    const auto answer = std::make_unique<wire::SpansAnswer>();
    context_.spans.take(*answer);
    return context_.replies.send(*answer);
}

Result<> NativeDialect::connect(uint64_t size) {
    return context_.serve<wire::ConnectRequest>([&](const auto & request) -> Result<> {
        const auto text = read_payload(size - sizeof request);
        if (!text) {
            return std::unexpected(text.error());
        }
        const std::string endpoint(reinterpret_cast<const char *>(text->data()), text->size());
        const auto connected = context_.links == nullptr ? Result<std::string>(fail(Errc::unavailable, "this server offers no links"))
                                                 : context_.links->connect(request.link, request.token, endpoint);
        if (!connected) {
            return context_.replies.send_text(wire::AnswerKind::refused, connected.error().text);
        }
        return context_.replies.send<uint8_t>(*connected == "rdma" ? 1 : 0);
    });
}

Result<> NativeDialect::push() {
    return context_.serve<wire::PushRequest>([&](const auto & request) -> Result<> {
        auto source = whole(request.slot);
        if (!source) {
            return std::unexpected(source.error());
        }
        LinkSender * sender = context_.links == nullptr ? nullptr : context_.links->sender(request.link);
        if (sender == nullptr) {
            return fail(Errc::not_found, "no link {}", static_cast<uint16_t>(request.link));
        }
        if (auto waited = context_.synchronize(source->device()); !waited) {
            return waited;
        }
        const auto sent = is_stale_[source->device()] || context_.is_stale(*source)
                              ? sender->begin(wire::push_absent)
                              : sender->begin(source->tensor_bytes).and_then([&] {
                                    return context_.io.read_to(*source, [&](ConstBytes piece) { return sender->send(piece); });
                                });
        // The receiving server reports the failure to the client. This session continues.
        if (!sent && sender->first_failure()) {
            log_warning("{}", sent.error().text);
        }
        return {};
    });
}

Result<> NativeDialect::take_push() {
    return context_.serve<wire::TakeRequest>([&](const auto & request) -> Result<> {
        auto target = whole(request.slot);
        if (!target) {
            return std::unexpected(target.error());
        }
        LinkReceiver * receiver = context_.links == nullptr ? nullptr : context_.links->receiver(request.token);
        if (receiver == nullptr) {
            return fail(Errc::not_found, "no server has connected with this token");
        }
        auto taken = receiver->begin(target->tensor_bytes).and_then([&] {
            return context_.io.write(receiver->bytes(), *target, target->tensor_bytes, false);
        });
        lacks_input_[target->device()] = lacks_input_[target->device()] || !taken;
        if (!taken) {
            context_.stale.mark(target->address, target->address + target->tensor_bytes);
        }
        return context_.replies.report_failure(std::move(taken));
    });
}

}  // namespace caravan::server
