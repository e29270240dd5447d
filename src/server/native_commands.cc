#include "server/native_commands.h"

#include "base/log.h"

namespace caravan::server {
namespace {

constexpr size_t max_spans = 1 << 18;  // the oldest go first

uint64_t nanoseconds_of(TimePoint time) {
    return static_cast<uint64_t>(std::chrono::nanoseconds(time.time_since_epoch()).count());
}

}  // namespace

Result<> GraphRuns::launch(uint32_t device, Graph & graph) {
    ++launches;
    if (ggml_graph_n_nodes(graph.graph) == 0) {
        return {};
    }
    if (auto good = check_indices(graph.indices); !good) {
        return good;
    }
    const ggml_status status = devices.compute(device, graph.graph);
    if (status != GGML_STATUS_SUCCESS) {
        return fail(Errc::unsupported, "{} could not compute the graph: {}",
                    ggml_backend_dev_name(devices.device(device)), ggml_status_to_string(status));
    }
    return {};
}

NativeCommands::NativeCommands(net::Inbound & in, Devices & devices, BufferTable & buffers, Data & data,
                               GraphRuns & runs, Peers * peers)
    : in_(in),
      devices_(devices),
      buffers_(buffers),
      data_(data),
      runs_(runs),
      peers_(peers),
      slots_(wire::max_tensor_slots),
      graphs_(wire::max_graph_slots) {}

Result<> NativeCommands::serve(wire::NativeCommand command, uint64_t size) {
    used_ = true;
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
            kept.built.reset();
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
    const auto difference = take_rest(size - sizeof *request);
    if (!difference) {
        return std::unexpected(difference.error());
    }
    KeptGraph & kept = graphs_[slot];
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
        devices_.synchronize(kept.device);  // it may be running
    }
    kept.tensors = std::move(*tensors);
    kept.device = device;
    kept.built.reset();
    auto built = build_graph(describe_graph(kept.tensors), devices_.device(device), buffers_);
    if (!built) {
        log_warning("a graph is refused: {}", built.error().text);
        return tell_failed(built.error());
    }
    ++runs_.built;
    kept.built = std::move(*built);
    const auto launched = runs_.launch(device, *kept.built);
    return launched ? Result<>() : tell_failed(launched.error());
}

Result<> NativeCommands::launch() {
    const auto request = take_request<wire::LaunchRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint16_t slot = request->slot;
    if (slot >= graphs_.size() || !graphs_[slot].built) {
        return data_.tell(wire::AnswerKind::launch_failed, std::format("there is no graph in slot {}", slot));
    }
    const auto launched = runs_.launch(graphs_[slot].device, *graphs_[slot].built);
    return launched ? Result<>() : tell_failed(launched.error());
}

Result<> NativeCommands::supports(uint64_t size) {
    const auto request = take_request<wire::SupportsRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = devices_.check(request->device); !good) {
        return good;
    }
    const auto difference = take_rest(size - sizeof *request);
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
    return data_.answer<uint8_t>(data_.find_digest(*target, request->size, request->digest) ? 1 : 0);
}

Result<> NativeCommands::clock() {
    recording_ = true;
    return data_.answer(nanoseconds_of(Clock::now()));
}

void NativeCommands::record(wire::Command command, TimePoint begin, TimePoint end) {
    if (spans_.size() == max_spans) {
        spans_.pop_front();
    }
    spans_.push_back({nanoseconds_of(begin), nanoseconds_of(end), static_cast<uint8_t>(command)});
}

Result<> NativeCommands::spans() {
    const auto answer = std::make_unique<wire::SpansAnswer>();
    for (; answer->count < wire::spans_per_answer && !spans_.empty(); spans_.pop_front()) {
        answer->spans[answer->count] = spans_.front();
        answer->count = answer->count + 1;
    }
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
    const auto sent = sender->begin(source->tensor_bytes).and_then([&] {
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
    const auto taken = receiver->begin(target->tensor_bytes).and_then([&] {
        return data_.write(receiver->bytes(), *target, target->tensor_bytes, false);
    });
    return taken ? taken : tell_failed(taken.error());
}

}  // namespace caravan::server
