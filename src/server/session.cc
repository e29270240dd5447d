#include "server/session.h"

#include <algorithm>

#include "base/counted.h"
#include "base/log.h"
#include "server/lent_memory.h"
#include "server/op_check.h"

namespace caravan::server {
namespace {

using wire::Command;

constexpr seconds min_logged_silence{10};

// Bytes from the begin of the first row to the end of the last. `payload`: the size that the rows must add up to.
Result<uint64_t> rows_span(const wire::Tensor2dRequest & request, std::optional<uint64_t> payload) {
    const uint64_t size = request.size, n_rows = request.n_copies, stride = request.stride;
    uint64_t all = 0, last = 0, span = 0;
    if ((size == 0 || n_rows == 0) && payload.value_or(0) == 0) {
        return 0;
    }
    if (n_rows == 0 || __builtin_mul_overflow(size, n_rows, &all) || (payload && all != *payload) ||
        __builtin_mul_overflow(stride, n_rows - 1, &last) || __builtin_add_overflow(last, size, &span)) {
        return fail(Errc::protocol, "{} rows of {} bytes do not match a payload of {} bytes", n_rows, size, payload.value_or(0));
    }
    return span;
}

}  // namespace

Session::Session(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * weights, Peers * peers,
                 uint64_t max_memory, MachineMemory * machine)
    : context_(transport, already, devices, weights, peers, max_memory, machine), native_(context_), graphs_(context_) {
    context_.memory.on_host_change = [this] { report_host_memory(); };
}

Error Session::run() {
    for (;;) {
        if (auto served = serve_one(); !served) {
            (void)context_.runs.synchronize();
            if (context_.replies.is_native() && served.error().code != Errc::closed && served.error().code != Errc::reset) {
                (void)context_.replies.send_text(wire::AnswerKind::ended, served.error().text);
            }
            return std::move(served.error());
        }
    }
}

std::string Session::summary() const {
    const auto in_seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); };
    const double busy = in_seconds(context_.runs.busy());
    std::string text = formatted("{} computed {}, {} MiB in, {} MiB out, at most {} MiB of buffers; {:.1f} s, "
                                 "{:.1f} s computing",
                                 counted(context_.runs.built(), "graph"), counted(context_.runs.launches(), "time"),
                                 context_.in.bytes_taken() >> 20, context_.replies.bytes_sent() >> 20,
                                 context_.buffers.peak_bytes() >> 20, in_seconds(Clock::now() - begin_), busy);
    if (busy > 0) {
        text += formatted(" ({:.1f} launches/s)", static_cast<double>(context_.runs.launches()) / busy);
    }
    const uint64_t received = context_.io.weights_received(), from_cache = context_.lookups.bytes_from_cache(),
                   from_models = context_.lookups.bytes_from_models();
    if (received + from_cache + from_models > 0) {
        text += formatted("; weights: {} MiB received, {} MiB from the cache, {} MiB from model files", received >> 20,
                          from_cache >> 20, from_models >> 20);
    }
    return text;
}

// Nothing else shows that a client or its network was stopped.
void Session::log_silence(TimePoint since) const {
    const auto silence = Clock::now() - since;
    if (silence >= min_logged_silence) {
        log_info("the client sent no command for {:.1f} s", std::chrono::duration<double>(silence).count());
    }
}

Result<> Session::serve_one() {
    if (context_.in.buffered_size() < sizeof(wire::RequestHeader)) {
        if (auto waited = context_.lookups.reply_to_finds(); !waited) {
            return waited;
        }
    }
    const bool waits = context_.in.buffered_size() < sizeof(wire::RequestHeader);
    const TimePoint since = waits ? Clock::now() : TimePoint();
    const auto bytes = context_.in.peek(sizeof(wire::RequestHeader), true);
    if (waits) {
        log_silence(since);
    }
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto header = load<wire::RequestHeader>(bytes->data());
    const Command command = header.command;
    const uint64_t size = header.size;
    const bool is_native = wire::is_native(command);
    const auto native = static_cast<wire::NativeCommand>(command);
    const wire::PayloadBounds bounds = is_native ? wire::payload_bounds(native) : wire::payload_bounds(command);
    const char * name = is_native ? wire::command_name(native) : wire::command_name(command);
    if (bounds.low > bounds.high) {
        return fail(Errc::protocol, "command {} does not exist", static_cast<unsigned>(command));
    }
    if (size < bounds.low || size > bounds.high) {
        return fail(Errc::protocol, "{}: invalid payload size of {} bytes", name, size);
    }
    context_.in.take(sizeof header);
    const bool goes_beside_finds =
        is_native && (native == wire::NativeCommand::find || native == wire::NativeCommand::declare);
    if (auto waited = goes_beside_finds ? Result<>() : context_.lookups.reply_to_finds(); !waited) {
        return waited;
    }
    const TimePoint begin = context_.spans.is_recording() ? Clock::now() : TimePoint();
    command_.store(name, std::memory_order_relaxed);
    auto done = is_native ? native_.serve(native, size) : dispatch(command, size);
    command_.store(nullptr, std::memory_order_relaxed);
    report_host_memory();
    if (begin != TimePoint()) {
        context_.spans.record(static_cast<uint8_t>(command), begin, Clock::now());
    }
    if (!done && done.error().code != Errc::closed && done.error().code != Errc::reset) {
        return fail(done.error().code, "{}: {}", name, done.error().text);
    }
    return done;
}

Result<> Session::dispatch(Command command, uint64_t size) {
    switch (command) {
        case Command::alloc_buffer: return alloc_buffer();
        case Command::get_alignment:
            return take_request<wire::DeviceRequest>(context_.in).and_then([&](auto request) -> Result<> {
                return context_.devices.check(request.device).and_then([&] {
                    return context_.replies.send<uint64_t>(context_.devices.alignment(request.device));
                });
            });
        case Command::get_max_size:
            return take_request<wire::DeviceRequest>(context_.in).and_then([&](auto request) -> Result<> {
                return context_.devices.check(request.device).and_then([&] {
                    return context_.replies.send<uint64_t>(ggml_backend_buft_get_max_size(context_.devices.buffer_type(request.device)));
                });
            });
        case Command::get_device_memory: return get_device_memory();
        case Command::device_count: return context_.replies.send<uint32_t>(context_.devices.count());
        case Command::buffer_get_base:
            return take_request<wire::BufferRequest>(context_.in).and_then([&](auto request) -> Result<> {
                if (context_.buffers.find(request.buffer) == nullptr) {
                    return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request.buffer));
                }
                return context_.replies.send(uint64_t{request.buffer});  // the handle of a buffer is its address
            });
        case Command::free_buffer: return free_buffer();
        case Command::buffer_clear: return clear_buffer();
        case Command::set_tensor: return set_tensor(size);
        case Command::set_tensor_hash: return set_tensor_hash();
        case Command::get_tensor: return get_tensor();
        case Command::copy_tensor: return copy_tensor();
        case Command::graph_compute: return graphs_.compute(size);
        case Command::init_tensor: return init_tensor();
        case Command::get_alloc_size: return get_alloc_size();
        case Command::graph_recompute: return graphs_.recompute();
        case Command::memset_tensor: return memset_tensor();
        case Command::set_tensor_2d: return set_tensor_2d(size);
        case Command::get_tensor_2d: return get_tensor_2d();
        case Command::comm_init: {
            // Declined. The client then reduces tensors itself.
            return context_.in.read_pieces(size, [](ConstBytes) {}).and_then([&] { return context_.replies.send<uint8_t>(0); });
        }
        case Command::hello:
        case Command::comm_allreduce:
        case Command::comm_free: break;
    }
    return fail(Errc::protocol, "the command is not allowed in a session");
}

Result<> Session::get_device_memory() {
    const auto request = take_request<wire::DeviceRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint32_t device = request->device;
    return context_.devices.check(device).and_then([&] {
        const bool is_cpu = is_cpu_memory(context_.devices.buffer_type(device));
        const uint64_t available = context_.machine != nullptr && is_cpu ? context_.machine->free(context_.buffers.cpu_bytes()) : UINT64_MAX;
        const auto memory = lent_memory(context_.devices.memory(available), device, context_.memory.max_bytes(), context_.memory.remaining());
        return context_.replies.send(wire::DeviceMemoryAnswer{memory.free, memory.total});
    });
}

// Reports the machine memory that the client makes the session use in addition to buffers.
void Session::report_host_memory() {
    if (context_.machine != nullptr) {
        context_.machine->note_besides(context_.memory.host_bytes() + (context_.peers == nullptr ? 0 : context_.peers->backlog()));
    }
}

Result<> Session::claim_machine_memory(uint32_t device, uint64_t size) {
    const bool needs_claim = context_.machine != nullptr && is_cpu_memory(context_.devices.buffer_type(device)) && size <= max_buffer_size;
    return needs_claim ? context_.machine->claim(context_.buffers.cpu_bytes() + size) : Result<>();
}

Result<> Session::alloc_buffer() {
    const auto request = take_request<wire::AllocBufferRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = context_.devices.check(request->device); !good) {
        return good;
    }
    const auto address =
        context_.memory.check_buffer(request->size)
            .and_then([&] { return claim_machine_memory(request->device, request->size); })
            .and_then([&] {
                return context_.buffers.allocate(context_.devices.buffer_type(request->device), request->device, request->size);
            });
    if (!address) {
        if (context_.machine != nullptr) {
            context_.machine->give_back(context_.buffers.cpu_bytes());  // the failed claim
        }
        log_warning("ALLOC_BUFFER refused: {}", address.error().text);
        return context_.replies.send(wire::AllocBufferAnswer{0, 0});
    }
    return context_.replies.send(wire::AllocBufferAnswer{*address, request->size});
}

Result<> Session::free_buffer() {
    const auto request = take_request<wire::BufferRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint64_t buffer = request->buffer;
    if (auto waited = context_.synchronize(); !waited) {
        return waited;
    }
    // Drops only the graphs that use the buffer. A stock server drops all graphs.
    graphs_.drop_graphs_using(buffer);
    native_.drop_graphs_using(buffer);
    if (const BufferTable::Buffer * freed = context_.buffers.find(buffer)) {
        context_.stale.clear(buffer, buffer + freed->size);
    }
    const uint64_t before = context_.buffers.cpu_bytes();
    if (!context_.buffers.free(buffer)) {
        return fail(Errc::not_found, "no buffer {:#x}", buffer);
    }
    if (context_.machine != nullptr && context_.buffers.cpu_bytes() < before) {
        context_.machine->give_back(context_.buffers.cpu_bytes());
    }
    return {};
}

Result<> Session::clear_buffer() {
    const auto request = take_request<wire::BufferClearRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    BufferTable::Buffer * buffer = context_.buffers.find(request->buffer);
    if (buffer == nullptr) {
        return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request->buffer));
    }
    if (auto waited = context_.synchronize(buffer->device); !waited) {
        return waited;
    }
    ggml_backend_buffer_clear(buffer->buffer.get(), request->value);
    context_.stale.clear(request->buffer, request->buffer + buffer->size);
    return {};
}

Result<> Session::set_tensor(uint64_t size) {
    const auto request = take_request<wire::SetTensorRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    return checked_region(request->tensor, request->offset, size, context_.buffers).and_then([&](CheckedRegion target) {
        return context_.io.write(context_.in, target, size, request->cache != 0);
    });
}

Result<> Session::set_tensor_2d(uint64_t size) {
    const auto request = take_request<wire::Tensor2dRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    const auto span = rows_span(*request, size);
    if (!span) {
        return std::unexpected(span.error());
    }
    return checked_region(request->tensor, request->offset, *span, context_.buffers).and_then([&](CheckedRegion target) {
        return context_.io.write_rows(target, request->size, request->n_copies, request->stride);
    });
}

Result<> Session::set_tensor_hash() {
    const auto request = take_request<wire::SetTensorHashRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    // The request has no size. Clients load the rest of the tensor from `offset`.
    const auto bytes = checked_bytes(request->tensor);
    const uint64_t offset = request->offset;
    if (!bytes || offset >= *bytes) {
        return context_.replies.send<uint8_t>(0);
    }
    auto target = checked_region(request->tensor, offset, *bytes - offset, context_.buffers);
    const auto found = target ? context_.lookups.find_fnv(*target, *bytes - offset, request->hash) : false;
    return found.and_then([&](bool is_there) { return context_.replies.send<uint8_t>(is_there ? 1 : 0); });
}

Result<> Session::get_tensor() {
    const auto request = take_request<wire::GetTensorRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(request->tensor, request->offset, request->size, context_.buffers).and_then([&](CheckedRegion source) {
        return context_.io.read(source, request->size);
    });
}

Result<> Session::get_tensor_2d() {
    const auto request = take_request<wire::Tensor2dRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    const auto span = rows_span(*request, std::nullopt);
    if (!span) {
        return std::unexpected(span.error());
    }
    return checked_region(request->tensor, request->offset, *span, context_.buffers).and_then([&](CheckedRegion source) -> Result<> {
        if (request->size * request->n_copies > source.tensor_bytes) {
            return fail(Errc::invalid_argument, "the rows overlap");
        }
        return context_.io.read_rows(source, request->size, request->n_copies, request->stride);
    });
}

Result<> Session::copy_tensor() {
    const auto request = take_request<wire::CopyTensorRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto from = checked_region(request->src, 0, 0, context_.buffers);
    auto to = checked_region(request->dst, 0, 0, context_.buffers);
    if (!from || !to) {
        return std::unexpected(!from ? from.error() : to.error());
    }
    return context_.io.copy(*from, *to).and_then([&] { return context_.replies.send<uint8_t>(1); });
}

Result<> Session::memset_tensor() {
    const auto request = take_request<wire::MemsetTensorRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(request->tensor, request->offset, request->size, context_.buffers).and_then([&](CheckedRegion target) {
        return context_.io.fill(target, request->size, request->value);
    });
}

Result<> Session::init_tensor() {
    const auto request = take_request<wire::Tensor>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(*request, 0, 0, context_.buffers).and_then([&](CheckedRegion target) {
        return context_.io.initialize(target, *request);
    });
}

Result<> Session::get_alloc_size() {
    const auto request = take_request<wire::GetAllocSizeRequest>(context_.in);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = context_.devices.check(request->device); !good) {
        return good;
    }
    // Uses shapes only, so buffers and addresses are ignored.
    const auto shape = [&](wire::Tensor wired) -> Result<ggml_tensor> {
        wired.buffer = wired.data = 0;
        if (wired.op >= GGML_OP_COUNT) {
            return fail(Errc::invalid_argument, "op {} does not exist", static_cast<uint32_t>(wired.op));
        }
        auto tensor = checked_tensor(wired, context_.buffers);
        if (tensor) {
            tensor->op = static_cast<ggml_op>(wired.op);
            std::memcpy(tensor->op_params, wired.op_params, sizeof tensor->op_params);
            tensor->flags = wired.flags;
        }
        return tensor;
    };
    auto tensor = shape(request->tensor);
    if (!tensor) {
        return std::unexpected(tensor.error());
    }
    std::array<ggml_tensor, wire::max_sources> sources{};
    for (int i = 0; i < wire::max_sources; ++i) {
        const wire::Tensor wired = request->src[i];
        if (wired.id != 0) {
            auto source = shape(wired);
            if (!source) {
                return std::unexpected(source.error());
            }
            sources[static_cast<size_t>(i)] = *source;
            tensor->src[i] = &sources[static_cast<size_t>(i)];
        }
    }
    // Some back-ends inspect the sources, because the results of some ops need more memory. A node that fails the check
    // counts as a plain tensor.
    if (!check_op(*tensor, false)) {
        tensor->op = GGML_OP_NONE;
        std::ranges::fill(tensor->src, nullptr);
    }
    return context_.replies.send<uint64_t>(ggml_backend_buft_get_alloc_size(context_.devices.buffer_type(request->device), &*tensor));
}

}  // namespace caravan::server
