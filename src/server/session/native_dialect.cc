#include "server/session/native_dialect.h"

#include "base/log.h"

namespace caravan::server {
namespace {

// The complete entries of a payload.
template <class Entry>
std::vector<Entry> entries_of(ConstBytes payload) {
    std::vector<Entry> out;
    for (; payload.size() >= sizeof(Entry); payload = payload.subspan(sizeof(Entry))) {
        out.push_back(load<Entry>(payload.data()));
    }
    return out;
}

}  // namespace

NativeDialect::NativeDialect(SessionContext & context)
    : context_(context), slots_(wire::max_tensor_slots), graphs_(context), reductions_(context) {}

const char * NativeDialect::name_of(wire::Command command) const {
    return wire::command_name(static_cast<wire::NativeCommand>(command));
}

wire::PayloadBounds NativeDialect::bounds_of(wire::Command command) const {
    return wire::payload_bounds(static_cast<wire::NativeCommand>(command));
}

bool NativeDialect::may_overtake_finds(wire::Command command) const {
    const auto native = static_cast<wire::NativeCommand>(command);
    return native == wire::NativeCommand::find || native == wire::NativeCommand::find_part ||
           native == wire::NativeCommand::declare;
}

Result<> NativeDialect::serve(wire::Command command, uint64_t size) {
    switch (static_cast<wire::NativeCommand>(command)) {
        case wire::NativeCommand::declare: return declare();
        case wire::NativeCommand::write: return write(size);
        case wire::NativeCommand::read: return read();
        case wire::NativeCommand::fill: return fill();
        case wire::NativeCommand::copy: return copy();
        case wire::NativeCommand::initialize: return initialize();
        case wire::NativeCommand::graph: return graphs_.define(size);
        case wire::NativeCommand::launch: return graphs_.launch();
        case wire::NativeCommand::supports: return graphs_.supports(size);
        case wire::NativeCommand::invite:
            return context_.replies.send(context_.links == nullptr ? uint64_t{0} : context_.links->invite());
        case wire::NativeCommand::connect: return connect(size);
        case wire::NativeCommand::push: return push();
        case wire::NativeCommand::take: return take_push();
        case wire::NativeCommand::facts:
            return context_.replies.send(wire::SessionFacts{
                .has_cache = context_.lookups.has_cache(), .groups = wire::groups_version, .finds_parts = 1,
                .reports_algorithm = 1});
        case wire::NativeCommand::find: return find();
        case wire::NativeCommand::find_part: return find_part();
        case wire::NativeCommand::clock: return clock();
        case wire::NativeCommand::spans: return spans();
        case wire::NativeCommand::group: return group(size);
        case wire::NativeCommand::reduce: return reduce(size);
        case wire::NativeCommand::algorithm: return algorithm();
    }
    return fail(Errc::protocol, "unknown command");
}

void NativeDialect::drop_graphs_using(uint64_t buffer) { graphs_.drop_graphs_using(buffer); }

Result<CheckedRegion> NativeDialect::region(uint16_t slot, uint64_t offset, uint64_t size) {
    if (slot >= slots_.size() || !slots_[slot]) {
        return fail(Errc::not_found, "slot {} is not declared", slot);
    }
    return checked_region(*slots_[slot], offset, size, context_.buffers);
}

Result<CheckedRegion> NativeDialect::whole(uint16_t slot) { return region(slot, 0, 0); }

Result<CheckedRegion> NativeDialect::without_buffer(uint16_t slot, Error error) {
    if (slot >= slots_.size() || !slots_[slot] || checked_bytes(*slots_[slot]).value_or(1) > 0) {
        return std::unexpected(std::move(error));
    }
    wire::Region region = *slots_[slot];
    region.buffer = 0;
    return checked_tensor(region, context_.buffers).transform([](const ggml_tensor & tensor) {
        return CheckedRegion{.tensor = tensor, .region = {}};
    });
}

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

Result<> NativeDialect::find() {
    return context_.serve<wire::FindRequest>([&](const auto & request) -> Result<> {
        auto target = region(request.slot, request.offset, request.size);
        if (!target) {
            return std::unexpected(target.error());
        }
        return context_.lookups.find_digest(*target, request.size, request.digest);
    });
}

Result<> NativeDialect::find_part() {
    return context_.serve<wire::FindPartRequest>([&](const auto & request) -> Result<> {
        const cache::Rows part{request.at, request.size, request.count, request.stride};
        if (!part.are_within(request.tensor_size)) {
            return fail(Errc::invalid_argument,
                        "{} rows of {} bytes, each {} after the other, from {} are no part of a tensor of {} bytes", part.count,
                        part.size, part.stride, part.offset, static_cast<uint64_t>(request.tensor_size));
        }
        auto target = region(request.slot, request.offset, part.bytes());
        if (!target) {
            return std::unexpected(target.error());
        }
        return context_.lookups.find_part(*target, part, request.digest, request.tensor_digest, request.tensor_size);
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
    const auto reply = std::make_unique<wire::SpansReply>();
    context_.spans.take(*reply);
    return context_.replies.send(*reply);
}

Result<> NativeDialect::connect(uint64_t size) {
    return context_.serve<wire::ConnectRequest>([&](const auto & request) -> Result<> {
        const auto text = context_.read_payload(size - sizeof request);
        if (!text) {
            return std::unexpected(text.error());
        }
        const std::string endpoint(reinterpret_cast<const char *>(text->data()), text->size());
        // Where this session does not use RDMA, the link is unlikely to: the client need not wait for the attempt.
        const auto rdma_wait = context_.replies.use_rdma() ? tunable::link_upgrade_wait : milliseconds(0);
        const auto connected = context_.links == nullptr
                                   ? Result<net::TransportKind>(fail(Errc::unavailable, "this server offers no links"))
                                   : context_.links->connect(request.link, request.token, endpoint, rdma_wait);
        if (!connected) {
            return context_.replies.send_text(wire::ReplyKind::refused, connected.error().text);
        }
        return context_.replies.send<uint8_t>(*connected == net::TransportKind::rdma ? 1 : 0);
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
        const auto all = context_.io.wait_and_read(*source, source->tensor_bytes);
        if (!all) {
            return std::unexpected(all.error());
        }
        const auto send_piece = [&](ConstBytes piece) { return sender->send(piece); };
        const auto sent = graphs_.last_launch_failed(source->device()) || context_.is_stale(*source)
                              ? sender->begin(wire::push_absent)
                              : sender->begin(source->tensor_bytes).and_then([&] {
                                    return all->empty() ? context_.io.read_to(*source, send_piece) : send_piece(*all);
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
        if (!taken && receiver->bytes().was_silent()) {
            return taken;
        }
        if (!taken) {
            graphs_.note_missing_input(target->device());
            context_.stale.mark(target->address, target->address + target->tensor_bytes);
        }
        return context_.replies.report_failure(std::move(taken));
    });
}

Result<> NativeDialect::group(uint64_t size) {
    return context_.serve<wire::GroupRequest>([&](const auto & request) -> Result<> {
        const auto payload = context_.read_payload(size - sizeof request);
        if (!payload) {
            return std::unexpected(payload.error());
        }
        const auto peers = entries_of<wire::GroupPeer>(*payload);
        if (auto formed = reductions_.form(request, peers); !formed) {
            return context_.replies.send_text(wire::ReplyKind::refused, formed.error().text);
        }
        graphs_.forget_missing_input();
        return context_.replies.send<uint8_t>(1);
    });
}

Result<> NativeDialect::reduce(uint64_t size) {
    return context_.serve<wire::ReduceRequest>([&](const auto & request) -> Result<> {
        const auto payload = context_.read_payload(size - sizeof request);
        if (!payload) {
            return std::unexpected(payload.error());
        }
        const auto slots = entries_of<uint16_t>(*payload);
        std::vector<Reductions::Term> terms;
        bool is_valid = true;
        for (const uint16_t slot : slots) {
            auto region = whole(slot).or_else([&](Error error) { return without_buffer(slot, std::move(error)); });
            if (!region) {
                return std::unexpected(region.error());
            }
            if (region->region.buffer == nullptr) {
                terms.push_back({std::move(*region), true, {}});
                continue;
            }
            const uint32_t device = region->device();
            const bool is_zero = (request.zero >> terms.size() & 1) != 0;
            // The bytes are valid until the next term is read.
            const bool is_read = slots.size() == 1 && !is_zero;
            const auto bytes = context_.io.wait_and_read(*region, is_read ? region->tensor_bytes : 0);
            if (!bytes) {
                return std::unexpected(bytes.error());
            }
            is_valid = is_valid && (is_zero || (!graphs_.last_launch_failed(device) && !context_.is_stale(*region)));
            terms.push_back({std::move(*region), is_zero, *bytes});
        }
        if (auto good = reductions_.check(request, terms); !good) {
            return good;
        }
        auto reduced = reductions_.reduce(request, terms, is_valid);
        if (reductions_.session_end()) {
            return std::unexpected(*reductions_.session_end());
        }
        if (!reduced) {
            for (const Reductions::Term & term : terms) {
                if (term.region.region.buffer != nullptr) {
                    graphs_.note_missing_input(term.region.device());
                }
            }
        }
        return context_.replies.report_failure(std::move(reduced));
    });
}

Result<> NativeDialect::algorithm() {
    return context_.serve<wire::AlgorithmRequest>([&](const auto & request) -> Result<> {
        const auto reply = reductions_.algorithm(request);
        return reply ? context_.replies.send(*reply)
                     : context_.replies.send_text(wire::ReplyKind::refused, reply.error().text);
    });
}

}  // namespace caravan::server
