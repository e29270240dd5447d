#include "server/session.h"

#include <algorithm>

#include "base/config.h"
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
    : in_(transport, already, client_stall, poll_time()),
      devices_(devices),
      peers_(peers),
      machine_(machine),
      runs_(devices, spans_),
      memory_(buffers_, max_memory),
      data_(transport, in_, runs_, buffers_, weights),
      native_(in_, devices, buffers_, memory_, data_, runs_, spans_, peers),
      graphs_(in_, devices, buffers_, memory_, data_, runs_) {
    memory_.on_host_change = [this] { report_host_memory(); };
}

Error Session::run() {
    for (;;) {
        if (auto served = serve_one(); !served) {
            (void)runs_.synchronize();
            if (data_.is_native() && served.error().code != Errc::closed && served.error().code != Errc::reset) {
                (void)data_.reply_text(wire::AnswerKind::ended, served.error().text);
            }
            return std::move(served.error());
        }
    }
}

std::string Session::summary() const {
    const auto in_seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); };
    const double busy = in_seconds(runs_.busy());
    std::string text = formatted("{} computed {}, {} MiB in, {} MiB out, at most {} MiB of buffers; {:.1f} s, "
                                 "{:.1f} s computing",
                                 counted(runs_.built(), "graph"), counted(runs_.launches(), "time"), in_.bytes_taken() >> 20, data_.bytes_out() >> 20,
                                 buffers_.peak_bytes() >> 20, in_seconds(Clock::now() - begin_), busy);
    if (busy > 0) {
        text += formatted(" ({:.1f} launches/s)", static_cast<double>(runs_.launches()) / busy);
    }
    const Data::WeightBytes & weights = data_.weight_bytes();
    if (weights.received + weights.from_cache + weights.from_models > 0) {
        text += formatted("; weights: {} MiB received, {} MiB from the cache, {} MiB from model files",
                          weights.received >> 20, weights.from_cache >> 20, weights.from_models >> 20);
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
    if (in_.buffered_size() < sizeof(wire::RequestHeader)) {
        if (auto waited = data_.reply_to_finds(); !waited) {
            return waited;
        }
    }
    const bool waits = in_.buffered_size() < sizeof(wire::RequestHeader);
    const TimePoint since = waits ? Clock::now() : TimePoint();
    const auto bytes = in_.peek(sizeof(wire::RequestHeader), true);
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
    in_.take(sizeof header);
    const bool goes_beside_finds =
        is_native && (native == wire::NativeCommand::find || native == wire::NativeCommand::declare);
    if (auto waited = goes_beside_finds ? Result<>() : data_.reply_to_finds(); !waited) {
        return waited;
    }
    const TimePoint begin = spans_.is_recording() ? Clock::now() : TimePoint();
    command_.store(name, std::memory_order_relaxed);
    auto done = is_native ? native_.serve(native, size) : dispatch(command, size);
    command_.store(nullptr, std::memory_order_relaxed);
    report_host_memory();
    if (begin != TimePoint()) {
        spans_.record(static_cast<uint8_t>(command), begin, Clock::now());
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
            return take_request<wire::DeviceRequest>(in_).and_then([&](auto request) -> Result<> {
                return devices_.check(request.device).and_then([&] {
                    return data_.reply<uint64_t>(devices_.alignment(request.device));
                });
            });
        case Command::get_max_size:
            return take_request<wire::DeviceRequest>(in_).and_then([&](auto request) -> Result<> {
                return devices_.check(request.device).and_then([&] {
                    return data_.reply<uint64_t>(ggml_backend_buft_get_max_size(devices_.buffer_type(request.device)));
                });
            });
        case Command::get_device_memory: return get_device_memory();
        case Command::device_count: return data_.reply<uint32_t>(devices_.count());
        case Command::buffer_get_base:
            return take_request<wire::BufferRequest>(in_).and_then([&](auto request) -> Result<> {
                if (buffers_.find(request.buffer) == nullptr) {
                    return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request.buffer));
                }
                return data_.reply(uint64_t{request.buffer});  // the handle of a buffer is its address
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
            return in_.read_pieces(size, [](ConstBytes) {}).and_then([&] { return data_.reply<uint8_t>(0); });
        }
        case Command::hello:
        case Command::comm_allreduce:
        case Command::comm_free: break;
    }
    return fail(Errc::protocol, "the command is not allowed in a session");
}

Result<> Session::get_device_memory() {
    const auto request = take_request<wire::DeviceRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint32_t device = request->device;
    return devices_.check(device).and_then([&] {
        const bool is_cpu = is_cpu_memory(devices_.buffer_type(device));
        const uint64_t available = machine_ != nullptr && is_cpu ? machine_->free(buffers_.cpu_bytes()) : UINT64_MAX;
        const auto memory = lent_memory(devices_.memory(available), device, memory_.max_bytes(), memory_.remaining());
        return data_.reply(wire::DeviceMemoryAnswer{memory.free, memory.total});
    });
}

// Reports the machine memory that the client makes the session use in addition to buffers.
void Session::report_host_memory() {
    if (machine_ != nullptr) {
        machine_->note_besides(memory_.host_bytes() + (peers_ == nullptr ? 0 : peers_->backlog()));
    }
}

Result<> Session::claim_machine_memory(uint32_t device, uint64_t size) {
    const bool needs_claim = machine_ != nullptr && is_cpu_memory(devices_.buffer_type(device)) && size <= max_buffer_size;
    return needs_claim ? machine_->claim(buffers_.cpu_bytes() + size) : Result<>();
}

Result<> Session::alloc_buffer() {
    const auto request = take_request<wire::AllocBufferRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = devices_.check(request->device); !good) {
        return good;
    }
    const auto address =
        memory_.check_buffer(request->size)
            .and_then([&] { return claim_machine_memory(request->device, request->size); })
            .and_then([&] {
                return buffers_.allocate(devices_.buffer_type(request->device), request->device, request->size);
            });
    if (!address) {
        if (machine_ != nullptr) {
            machine_->give_back(buffers_.cpu_bytes());  // the failed claim
        }
        log_warning("ALLOC_BUFFER refused: {}", address.error().text);
        return data_.reply(wire::AllocBufferAnswer{0, 0});
    }
    return data_.reply(wire::AllocBufferAnswer{*address, request->size});
}

Result<> Session::free_buffer() {
    const auto request = take_request<wire::BufferRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint64_t buffer = request->buffer;
    if (auto waited = data_.synchronize(); !waited) {
        return waited;
    }
    // Drops only the graphs that use the buffer. A stock server drops all graphs.
    graphs_.drop_graphs_using(buffer);
    native_.drop_graphs_using(buffer);
    if (const BufferTable::Buffer * freed = buffers_.find(buffer)) {
        data_.stale().clear(buffer, buffer + freed->size);
    }
    const uint64_t before = buffers_.cpu_bytes();
    if (!buffers_.free(buffer)) {
        return fail(Errc::not_found, "no buffer {:#x}", buffer);
    }
    if (machine_ != nullptr && buffers_.cpu_bytes() < before) {
        machine_->give_back(buffers_.cpu_bytes());
    }
    return {};
}

Result<> Session::clear_buffer() {
    const auto request = take_request<wire::BufferClearRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    BufferTable::Buffer * buffer = buffers_.find(request->buffer);
    if (buffer == nullptr) {
        return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request->buffer));
    }
    if (auto waited = data_.synchronize(buffer->device); !waited) {
        return waited;
    }
    ggml_backend_buffer_clear(buffer->buffer.get(), request->value);
    data_.stale().clear(request->buffer, request->buffer + buffer->size);
    return {};
}

Result<> Session::set_tensor(uint64_t size) {
    const auto request = take_request<wire::SetTensorRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    return checked_region(request->tensor, request->offset, size, buffers_).and_then([&](CheckedRegion target) {
        return data_.write(in_, target, size, request->cache != 0);
    });
}

Result<> Session::set_tensor_2d(uint64_t size) {
    const auto request = take_request<wire::Tensor2dRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    const auto span = rows_span(*request, size);
    if (!span) {
        return std::unexpected(span.error());
    }
    return checked_region(request->tensor, request->offset, *span, buffers_).and_then([&](CheckedRegion target) {
        return data_.write_rows(target, request->size, request->n_copies, request->stride);
    });
}

Result<> Session::set_tensor_hash() {
    const auto request = take_request<wire::SetTensorHashRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    // The request has no size. Clients load the rest of the tensor from `offset`.
    const auto bytes = checked_bytes(request->tensor);
    const uint64_t offset = request->offset;
    if (!bytes || offset >= *bytes) {
        return data_.reply<uint8_t>(0);
    }
    auto target = checked_region(request->tensor, offset, *bytes - offset, buffers_);
    const auto found = target ? data_.find_fnv(*target, *bytes - offset, request->hash) : false;
    return found.and_then([&](bool is_there) { return data_.reply<uint8_t>(is_there ? 1 : 0); });
}

Result<> Session::get_tensor() {
    const auto request = take_request<wire::GetTensorRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(request->tensor, request->offset, request->size, buffers_).and_then([&](CheckedRegion source) {
        return data_.read(source, request->size);
    });
}

Result<> Session::get_tensor_2d() {
    const auto request = take_request<wire::Tensor2dRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    const auto span = rows_span(*request, std::nullopt);
    if (!span) {
        return std::unexpected(span.error());
    }
    return checked_region(request->tensor, request->offset, *span, buffers_).and_then([&](CheckedRegion source) -> Result<> {
        if (request->size * request->n_copies > source.tensor_bytes) {
            return fail(Errc::invalid_argument, "the rows overlap");
        }
        return data_.read_rows(source, request->size, request->n_copies, request->stride);
    });
}

Result<> Session::copy_tensor() {
    const auto request = take_request<wire::CopyTensorRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    auto from = checked_region(request->src, 0, 0, buffers_);
    auto to = checked_region(request->dst, 0, 0, buffers_);
    if (!from || !to) {
        return std::unexpected(!from ? from.error() : to.error());
    }
    return data_.copy(*from, *to).and_then([&] { return data_.reply<uint8_t>(1); });
}

Result<> Session::memset_tensor() {
    const auto request = take_request<wire::MemsetTensorRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(request->tensor, request->offset, request->size, buffers_).and_then([&](CheckedRegion target) {
        return data_.fill(target, request->size, request->value);
    });
}

Result<> Session::init_tensor() {
    const auto request = take_request<wire::Tensor>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    return checked_region(*request, 0, 0, buffers_).and_then([&](CheckedRegion target) {
        return data_.initialize(target, *request);
    });
}

Result<> Session::get_alloc_size() {
    const auto request = take_request<wire::GetAllocSizeRequest>(in_);
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = devices_.check(request->device); !good) {
        return good;
    }
    // Uses shapes only, so buffers and addresses are ignored.
    const auto shape = [&](wire::Tensor wired) -> Result<ggml_tensor> {
        wired.buffer = wired.data = 0;
        if (wired.op >= GGML_OP_COUNT) {
            return fail(Errc::invalid_argument, "op {} does not exist", static_cast<uint32_t>(wired.op));
        }
        auto tensor = checked_tensor(wired, buffers_);
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
    return data_.reply<uint64_t>(ggml_backend_buft_get_alloc_size(devices_.buffer_type(request->device), &*tensor));
}

}  // namespace caravan::server
