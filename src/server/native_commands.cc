#include "server/native_commands.h"

#include <algorithm>

#include "base/log.h"

namespace caravan::server {
namespace {

// Where the tensor's bytes end. A tensor that makes no sense has none.
uint64_t end_of(const wire::GraphTensor & tensor) {
    const uint64_t bytes = checked_bytes(region_of(tensor)).value_or(0);
    return tensor.address + std::min(bytes, UINT64_MAX - tensor.address);
}

}  // namespace

NativeCommands::NativeCommands(net::Inbound & in, Devices & devices, BufferTable & buffers, MemoryBudget & memory,
                               Data & data, GraphRuns & runs, Spans & spans, Peers * peers)
    : in_(in),
      devices_(devices),
      buffers_(buffers),
      memory_(memory),
      data_(data),
      runs_(runs),
      spans_(spans),
      peers_(peers),
      slots_(wire::max_tensor_slots),
      graphs_(wire::max_graph_slots),
      lacks_input_(devices.count()),
      is_stale_(devices.count()),
      last_launched_(devices.count()) {
    runs_.on_failed = [this](uint32_t device) {
        is_stale_[device] = true;
        if (last_launched_[device] != nullptr) {
            mark_results(*last_launched_[device], true);
        }
    };
}

Result<> NativeCommands::serve(wire::NativeCommand command, uint64_t size) {
    data_.speak_native();
    switch (command) {
        case wire::NativeCommand::declare: return declare();
        case wire::NativeCommand::write: return write(size);
        case wire::NativeCommand::read: return read();
        case wire::NativeCommand::fill: return fill();
        case wire::NativeCommand::copy: return copy();
        case wire::NativeCommand::initialize: return initialize();
        case wire::NativeCommand::graph: return graph(size);
        case wire::NativeCommand::launch: return launch();
        case wire::NativeCommand::supports: return supports(size);
        case wire::NativeCommand::invite: return data_.answer(peers_ == nullptr ? uint64_t{0} : peers_->invite());
        case wire::NativeCommand::connect: return connect(size);
        case wire::NativeCommand::push: return push();
        case wire::NativeCommand::take: return take_push();
        case wire::NativeCommand::facts: return data_.answer(wire::SessionFacts{.has_cache = data_.has_cache()});
        case wire::NativeCommand::find: return find();
        case wire::NativeCommand::clock: return clock();
        case wire::NativeCommand::spans: return spans();
    }
    return caravan::fail(Errc::protocol, "not known here");
}

void NativeCommands::forget(uint64_t buffer) {
    for (KeptGraph & kept : graphs_) {
        if (kept.built && kept.built->uses(buffer)) {
            kept.drop_built();
        }
    }
}

// Memory is taken as the bytes arrive, not as they are promised.
Result<std::vector<std::byte>> NativeCommands::take_rest(uint64_t size) {
    std::vector<std::byte> out;
    auto read = in_.read_pieces(size, [&](ConstBytes piece) { out.insert(out.end(), piece.begin(), piece.end()); });
    if (!read) {
        return std::unexpected(read.error());
    }
    return out;
}

Result<CheckedRegion> NativeCommands::region(uint16_t slot, uint64_t offset, uint64_t size) {
    if (slot >= slots_.size() || !slots_[slot]) {
        return caravan::fail(Errc::not_found, "nothing is declared in slot {}", slot);
    }
    return checked_region(*slots_[slot], offset, size, buffers_);
}

Result<CheckedRegion> NativeCommands::whole(uint16_t slot) { return region(slot, 0, 0); }

Result<> NativeCommands::declare() {
    const auto request = take_request<wire::DeclareRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint16_t slot = request->slot;
    if (slot >= slots_.size()) {
        return caravan::fail(Errc::invalid_argument, "slot {}: there are {}", slot, slots_.size());
    }
    slots_[slot] = region_of(request->region);
    return {};
}

Result<> NativeCommands::write(uint64_t size) {
    const auto request = take_request<wire::WriteRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    return region(request->slot, request->offset, size).and_then([&](CheckedRegion target) {
        return data_.write(in_, target, size, request->keep != 0);
    });
}

Result<> NativeCommands::read() {
    const auto request = take_request<wire::ReadRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    return region(request->slot, request->offset, request->size).and_then([&](CheckedRegion source) {
        return data_.read(source, request->size);
    });
}

Result<> NativeCommands::fill() {
    const auto request = take_request<wire::FillRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    return region(request->slot, request->offset, request->size).and_then([&](CheckedRegion target) {
        return data_.fill(target, request->size, request->value);
    });
}

Result<> NativeCommands::copy() {
    const auto request = take_request<wire::CopyRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto from = whole(request->from);
    auto to = whole(request->to);
    if (!from || !to) {
        return std::unexpected(!from ? from.error() : to.error());
    }
    return data_.copy(*from, *to);
}

Result<> NativeCommands::initialize() {
    const auto request = take_request<wire::SlotRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint16_t slot = request->slot;
    return whole(slot).and_then([&](CheckedRegion target) { return data_.initialize(target, *slots_[slot]); });
}

Result<> NativeCommands::graph(uint64_t size) {
    const auto request = take_request<wire::GraphRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint16_t slot = request->slot, base = request->base;
    const uint32_t device = request->device;
    if (slot >= graphs_.size() || (base >= graphs_.size() && base != wire::no_base)) {
        return caravan::fail(Errc::invalid_argument, "graph slots {} and {}: there are {}", slot, base, graphs_.size());
    }
    if (auto good = devices_.check(device); !good) {
        return good;
    }
    KeptGraph & kept = graphs_[slot];
    const uint64_t needed = building_bytes(size, std::min(uint32_t{request->n_tensors}, wire::max_graph_tensors));
    if (auto room = make_room(needed, kept); !room) {
        return room;
    }
    auto building = memory_.claim_host(needed);  // while it arrives, however slowly, too
    const auto difference = building.and_then([&](const MemoryClaim &) { return take_rest(size - sizeof *request); });
    if (!difference) {
        return std::unexpected(difference.error());
    }
    auto tensors = wire::decode_difference(base == wire::no_base ? std::span<const wire::GraphTensor>()
                                                                 : graphs_[base].tensors,
                                           request->n_tensors, *difference);
    if (!tensors) {
        return std::unexpected(tensors.error());
    }
    kept_tensors_ += tensors->size() - kept.tensors.size();
    if (kept_tensors_ > wire::max_session_tensors) {
        return caravan::fail(Errc::no_memory, "graphs of more than {} tensors in all", wire::max_session_tensors);
    }
    if (kept.built) {
        if (auto settled = data_.settle(kept.device); !settled) {  // it may be running
            return settled;
        }
    }
    kept.drop_built();
    kept.tensors_memory = {};
    kept.tensors = std::move(*tensors);
    kept.device = device;
    kept.is_given = true;
    *building = {};
    auto claim = memory_.claim_host(kept.tensors.size() * sizeof(wire::GraphTensor));
    if (!claim) {
        return std::unexpected(claim.error());
    }
    kept.tensors_memory = std::move(*claim);
    return launch(kept);
}

// Built graphs that were launched longest ago make room for `bytes` of host memory; they are built again when they are
// launched again. Their tensors stay, since later ones may be given as a difference to them.
Result<> NativeCommands::make_room(uint64_t bytes, const KeptGraph & without) {
    while (!memory_.has_host(bytes)) {
        KeptGraph * oldest = nullptr;
        for (KeptGraph & kept : graphs_) {
            if (kept.built && &kept != &without && (oldest == nullptr || kept.used < oldest->used)) {
                oldest = &kept;
            }
        }
        if (oldest == nullptr) {
            return std::unexpected(memory_.claim_host(bytes).error());
        }
        if (auto settled = data_.settle(oldest->device); !settled) {  // it may be running
            return settled;
        }
        oldest->drop_built();
    }
    return {};
}

Result<> NativeCommands::build(KeptGraph & kept) {
    return make_room(building_bytes(0, kept.tensors.size()), kept)
        .and_then([&] { return build_graph(describe_graph(kept.tensors), devices_.device(kept.device), buffers_); })
        .and_then([&](Graph graph) {
            runs_.count_built();
            return memory_.claim_host(graph.bytes()).transform([&](MemoryClaim claim) {
                kept.built = std::move(graph);
                kept.built_memory = std::move(claim);
            });
        });
}

// The session goes on if it fails, and the client hears of it.
Result<> NativeCommands::launch(KeptGraph & kept) {
    auto launched = run(kept);
    mark_results(kept, !launched);
    last_launched_[kept.device] = &kept;
    is_stale_[kept.device] = !launched;
    return data_.tell_if_failed(std::move(launched));
}

// Of what the graph only reads. (A cache of keys and values is both, and stays what it was where nothing is written.)
bool NativeCommands::reads_stale(const KeptGraph & kept) const {
    const StaleMemory & stale = data_.stale();
    return !stale.empty() && std::ranges::any_of(kept.tensors, [&](const wire::GraphTensor & tensor) {
        return tensor.is_node == 0 && stale.overlaps(tensor.address, end_of(tensor));
    });
}

// What the graph computes, but for views of what was there before. Of a graph that is refused too.
void NativeCommands::mark_results(const KeptGraph & kept, bool are_stale) {
    StaleMemory & stale = data_.stale();
    if (!are_stale && stale.empty()) {
        return;
    }
    for (const wire::GraphTensor & tensor : kept.tensors) {
        if (tensor.is_node != 0 && tensor.view_src == 0) {
            are_stale ? stale.mark(tensor.address, end_of(tensor)) : stale.clear(tensor.address, end_of(tensor));
        }
    }
}

Result<> NativeCommands::run(KeptGraph & kept) {
    if (!kept.built) {
        if (auto built = build(kept); !built) {
            log_warning("a graph is refused: {}", built.error().text);
            return built;
        }
    }
    bool lacks_input = false;
    for (const uint32_t device : kept.built->devices) {
        lacks_input = lacks_input || lacks_input_[device];
        lacks_input_[device] = false;
    }
    if (lacks_input) {
        return caravan::fail(Errc::unavailable, "its input did not come from another server");
    }
    if (reads_stale(kept)) {
        return caravan::fail(Errc::unavailable, "its input was to be computed by a launch that failed");
    }
    kept.used = runs_.launches();
    return runs_.launch(kept.device, *kept.built);
}

Result<> NativeCommands::launch() {
    const auto request = take_request<wire::LaunchRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint16_t slot = request->slot;
    if (slot >= graphs_.size() || !graphs_[slot].is_given) {
        return data_.tell(wire::AnswerKind::launch_failed, formatted("there is no graph in slot {}", slot));
    }
    return launch(graphs_[slot]);
}

Result<> NativeCommands::supports(uint64_t size) {
    const auto request = take_request<wire::SupportsRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = devices_.check(request->device); !good) {
        return good;
    }
    const uint64_t needed = building_bytes(size, std::min(uint32_t{request->n_tensors}, wire::max_graph_tensors));
    if (auto room = make_room(needed, {}); !room) {
        return room;
    }
    const auto building = memory_.claim_host(needed);
    const auto difference = building.and_then([&](const MemoryClaim &) { return take_rest(size - sizeof *request); });
    if (!difference) {
        return std::unexpected(difference.error());
    }
    auto tensors = wire::decode_difference({}, request->n_tensors, *difference);
    if (!tensors) {
        return std::unexpected(tensors.error());
    }
    const auto answers = supported_nodes(describe_graph(std::move(*tensors)), devices_.device(request->device));
    if (!answers) {
        return data_.tell(wire::AnswerKind::refused, answers.error().text);
    }
    return data_.answer_bytes(std::as_bytes(std::span(*answers)));
}

Result<> NativeCommands::find() {
    const auto request = take_request<wire::FindRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto target = region(request->slot, request->offset, request->size);
    if (!target) {
        return std::unexpected(target.error());
    }
    return data_.find_digest(*target, request->size, request->digest);
}

Result<> NativeCommands::clock() {
    spans_.begin_recording();
    return data_.answer(Spans::nanoseconds_of(Clock::now()));
}

Result<> NativeCommands::spans() {
    if (auto settled = data_.settle(); !settled) {  // what runs belongs to it
        return settled;
    }
    const auto answer = std::make_unique<wire::SpansAnswer>();
    spans_.take(*answer);
    return data_.answer(*answer);
}

Result<> NativeCommands::connect(uint64_t size) {
    const auto request = take_request<wire::ConnectRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const auto text = take_rest(size - sizeof *request);
    if (!text) {
        return std::unexpected(text.error());
    }
    const std::string endpoint(reinterpret_cast<const char *>(text->data()), text->size());
    const auto connected = peers_ == nullptr ? Result<std::string>(caravan::fail(Errc::unavailable, "no links here"))
                                             : peers_->connect(request->link, request->token, endpoint);
    if (!connected) {
        return data_.tell(wire::AnswerKind::refused, connected.error().text);
    }
    return data_.answer<uint8_t>(*connected == "rdma" ? 1 : 0);
}

Result<> NativeCommands::push() {
    const auto request = take_request<wire::PushRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto source = whole(request->slot);
    if (!source) {
        return std::unexpected(source.error());
    }
    PeerSender * sender = peers_ == nullptr ? nullptr : peers_->sender(request->link);
    if (sender == nullptr) {
        return caravan::fail(Errc::not_found, "no link {}", static_cast<uint16_t>(request->link));
    }
    if (auto settled = data_.settle(source->device()); !settled) {
        return settled;
    }
    const auto sent = is_stale_[source->device()] || data_.is_stale(*source)
                          ? sender->begin(wire::push_absent)
                          : sender->begin(source->tensor_bytes).and_then([&] {
                                return data_.read_to(*source, [&](ConstBytes piece) { return sender->send(piece); });
                            });
    // Whoever waits for it at the other end notices; here nothing is lost but the way.
    if (!sent && sender->first_failure()) {
        log_warning("{}", sent.error().text);
    }
    return {};
}

Result<> NativeCommands::take_push() {
    const auto request = take_request<wire::TakeRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto target = whole(request->slot);
    if (!target) {
        return std::unexpected(target.error());
    }
    PeerReceiver * receiver = peers_ == nullptr ? nullptr : peers_->receiver(request->token);
    if (receiver == nullptr) {
        return caravan::fail(Errc::not_found, "no server has come with this token");
    }
    auto taken = receiver->begin(target->tensor_bytes).and_then([&] {
        return data_.write(receiver->bytes(), *target, target->tensor_bytes, false);
    });
    lacks_input_[target->device()] = lacks_input_[target->device()] || !taken;
    if (!taken) {
        data_.stale().mark(target->address, target->address + target->tensor_bytes);
    }
    return data_.tell_if_failed(std::move(taken));
}

}  // namespace caravan::server
