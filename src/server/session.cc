#include "server/session.h"

#include <algorithm>
#include <format>

#include "base/config.h"
#include "base/log.h"
#include "server/tensor_check.h"

namespace caravan::server {
namespace {

using wire::Command;

// A client that stops in the middle of a message, or does not read its answer, is given up after this.
constexpr seconds stall{60};
// Device memory that cannot be addressed directly is moved in pieces of this size.
constexpr size_t piece_size = 4 << 20;

}  // namespace

Session::Session(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * weights)
    : transport_(transport),
      in_(transport, already, stall, poll_time()),
      devices_(devices),
      weights_(weights),
      graphs_(devices.count()) {}

Error Session::run() {
    for (;;) {
        if (auto served = serve_one(); !served) {
            devices_.synchronize();
            return std::move(served.error());
        }
    }
}

std::string Session::summary() const {
    return std::format("{} graphs computed {} times, {} MiB in, {} MiB out, at most {} MiB of buffers", graphs_built_,
                       launches_, in_.bytes_taken() >> 20, bytes_out_ >> 20, buffers_.peak_bytes() >> 20);
}

Result<> Session::serve_one() {
    const auto bytes = in_.peek(sizeof(wire::RequestHeader), true);
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto header = load<wire::RequestHeader>(bytes->data());
    const Command command = header.command;
    const uint64_t size = header.size;
    const wire::PayloadBounds bounds = wire::payload_bounds(command);
    if (bounds.low > bounds.high) {
        return fail(Errc::protocol, "command {} does not exist", static_cast<unsigned>(command));
    }
    if (size < bounds.low || size > bounds.high) {
        return fail(Errc::protocol, "{} with a payload of {} bytes", wire::command_name(command), size);
    }
    in_.take(sizeof header);
    auto done = dispatch(command, size);
    if (!done && done.error().code != Errc::closed) {
        return fail(done.error().code, "{}: {}", wire::command_name(command), done.error().text);
    }
    return done;
}

Result<> Session::dispatch(Command command, uint64_t size) {
    switch (command) {
        case Command::alloc_buffer: return alloc_buffer();
        case Command::get_alignment:
            return take<wire::DeviceRequest>().and_then([&](auto request) -> Result<> {
                return check_device(request.device).and_then([&] {
                    return answer<uint64_t>(ggml_backend_buft_get_alignment(devices_.buffer_type(request.device)));
                });
            });
        case Command::get_max_size:
            return take<wire::DeviceRequest>().and_then([&](auto request) -> Result<> {
                return check_device(request.device).and_then([&] {
                    return answer<uint64_t>(ggml_backend_buft_get_max_size(devices_.buffer_type(request.device)));
                });
            });
        case Command::get_device_memory:
            return take<wire::DeviceRequest>().and_then([&](auto request) -> Result<> {
                return check_device(request.device).and_then([&] {
                    size_t free = 0, total = 0;
                    ggml_backend_dev_memory(devices_.device(request.device), &free, &total);
                    return answer(wire::DeviceMemoryAnswer{free, total});
                });
            });
        case Command::device_count: return answer<uint32_t>(devices_.count());
        case Command::buffer_get_base:
            return take<wire::BufferRequest>().and_then([&](auto request) -> Result<> {
                if (buffers_.find(request.buffer) == nullptr) {
                    return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request.buffer));
                }
                return answer(uint64_t{request.buffer});  // a buffer's handle is its address
            });
        case Command::free_buffer: return free_buffer();
        case Command::buffer_clear: return clear_buffer();
        case Command::set_tensor: return set_tensor(size);
        case Command::set_tensor_hash: return set_tensor_hash();
        case Command::get_tensor: return get_tensor();
        case Command::copy_tensor: return copy_tensor();
        case Command::graph_compute: return compute(size);
        case Command::init_tensor: return init_tensor();
        case Command::get_alloc_size: return get_alloc_size();
        case Command::graph_recompute: return recompute();
        case Command::memset_tensor: return memset_tensor();
        case Command::set_tensor_2d: return set_tensor_2d(size);
        case Command::get_tensor_2d: return get_tensor_2d();
        case Command::comm_init: {
            // Not offered; a client that is told so adds up tensors by itself.
            return in_.read_pieces(size, [](ConstBytes) {}).and_then([&] { return answer<uint8_t>(0); });
        }
        case Command::hello:
        case Command::comm_allreduce:
        case Command::comm_free: break;
    }
    return fail(Errc::protocol, "not allowed here");
}

template <class Request>
Result<Request> Session::take() {
    const auto bytes = in_.peek(sizeof(Request));
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto request = load<Request>(bytes->data());
    in_.take(sizeof request);
    return request;
}

template <class Answer>
Result<> Session::answer(const Answer & answer) {
    return answer_bytes(const_bytes(&answer, sizeof answer));
}

Result<> Session::answer_bytes(ConstBytes payload) {
    const uint64_t size = payload.size();
    bytes_out_ += sizeof size + size;
    return net::send_all(transport_, {const_bytes(&size, sizeof size), payload}, stall);
}

Result<> Session::check_device(uint32_t device) const {
    if (device >= devices_.count()) {
        return fail(Errc::invalid_argument, "no device {}: there are {}", device, devices_.count());
    }
    return {};
}

Result<> Session::alloc_buffer() {
    const auto request = take<wire::AllocBufferRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = check_device(request->device); !good) {
        return good;
    }
    const auto address = buffers_.allocate(devices_.buffer_type(request->device), request->device, request->size);
    if (!address) {
        log_warning("ALLOC_BUFFER refused: {}", address.error().text);
        return answer(wire::AllocBufferAnswer{0, 0});
    }
    return answer(wire::AllocBufferAnswer{*address, request->size});
}

Result<> Session::free_buffer() {
    const auto request = take<wire::BufferRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    const uint64_t buffer = request->buffer;
    devices_.synchronize();
    // Only the graphs that need it go. (A stock server forgets all of them, and its clients do not know.)
    for (auto & kept : graphs_) {
        std::erase_if(kept, [&](const auto & entry) { return entry.second.uses(buffer); });
    }
    unkept_.reset();
    if (!buffers_.free(buffer)) {
        return fail(Errc::not_found, "no buffer {:#x}", buffer);
    }
    return {};
}

Result<> Session::clear_buffer() {
    const auto request = take<wire::BufferClearRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    BufferTable::Buffer * buffer = buffers_.find(request->buffer);
    if (buffer == nullptr) {
        return fail(Errc::not_found, "no buffer {:#x}", static_cast<uint64_t>(request->buffer));
    }
    devices_.synchronize();
    ggml_backend_buffer_clear(buffer->buffer.get(), request->value);
    return {};
}

Result<> Session::set_tensor(uint64_t size) {
    const auto request = take<wire::SetTensorRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    auto target = checked_region(request->tensor, request->offset, size, buffers_);
    if (!target) {
        return std::unexpected(target.error());
    }
    devices_.synchronize();
    std::optional<cache::Writer> writer;
    if (request->cache != 0 && weights_ != nullptr && size > wire::hash_threshold) {
        if (auto begun = weights_->begin(size)) {
            writer.emplace(std::move(*begun));
        }
    }
    uint64_t done = 0;
    while (done < size) {
        const size_t piece = std::min<uint64_t>(size - done, writer || !target->region.buffer->is_host ? piece_size : size);
        MutableBytes dest;
        if (target->region.buffer->is_host) {
            dest = MutableBytes(target->region.data() + done, piece);
        } else {
            scratch_.resize(std::max(scratch_.size(), piece));
            dest = MutableBytes(scratch_).first(piece);
        }
        if (auto read = in_.read_into(dest); !read) {
            return read;
        }
        if (!target->region.buffer->is_host) {
            ggml_backend_tensor_set(&target->tensor, dest.data(), request->offset + done, piece);
        }
        if (writer) {
            writer->append(dest);
        }
        done += piece;
    }
    if (writer) {
        writer->commit();
    }
    return {};
}

Result<> Session::set_tensor_2d(uint64_t size) {
    const auto request = take<wire::Tensor2dRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    size -= sizeof *request;
    uint64_t rows_size = 0, last = 0, span = 0;
    if (request->n_copies == 0 || __builtin_mul_overflow(request->size, request->n_copies, &rows_size) ||
        rows_size != size || __builtin_mul_overflow(request->stride, request->n_copies - 1, &last) ||
        __builtin_add_overflow(last, request->size, &span)) {
        return fail(Errc::protocol, "{} rows of {} bytes in a payload of {} bytes",
                    static_cast<uint64_t>(request->n_copies), static_cast<uint64_t>(request->size), size);
    }
    auto target = checked_region(request->tensor, request->offset, span, buffers_);
    if (!target) {
        return std::unexpected(target.error());
    }
    devices_.synchronize();
    for (uint64_t row = 0; row < request->n_copies && request->size > 0; ++row) {
        const uint64_t at = row * request->stride;
        for (uint64_t done = 0; done < request->size;) {
            const size_t piece = std::min<uint64_t>(request->size - done, piece_size);
            scratch_.resize(std::max(scratch_.size(), piece));
            const MutableBytes dest = target->region.buffer->is_host
                                          ? MutableBytes(target->region.data() + at + done, piece)
                                          : MutableBytes(scratch_).first(piece);
            if (auto read = in_.read_into(dest); !read) {
                return read;
            }
            if (!target->region.buffer->is_host) {
                ggml_backend_tensor_set(&target->tensor, dest.data(), request->offset + at + done, piece);
            }
            done += piece;
        }
    }
    return {};
}

Result<> Session::set_tensor_hash() {
    const auto request = take<wire::SetTensorHashRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    return answer<uint8_t>(weights_ != nullptr && load_cached(*request) ? 1 : 0);
}

// The message names no size: it is that of the rest of the tensor, which is how weights are loaded.
bool Session::load_cached(const wire::SetTensorHashRequest & request) {
    const auto bytes = checked_bytes(request.tensor);
    if (!bytes || request.offset >= *bytes) {
        return false;
    }
    auto target = checked_region(request.tensor, request.offset, *bytes - request.offset, buffers_);
    auto entry = target ? weights_->find(request.hash, *bytes - request.offset) : std::nullopt;
    if (!entry) {
        return false;
    }
    devices_.synchronize();
    scratch_.resize(std::max(scratch_.size(), piece_size));
    for (uint64_t done = 0;;) {
        const auto got = entry->read(scratch_);
        if (!got || *got == 0) {
            break;
        }
        const size_t piece = std::min<uint64_t>(*got, *bytes - request.offset - done);
        ggml_backend_tensor_set(&target->tensor, scratch_.data(), request.offset + done, piece);
        done += piece;
    }
    return entry->verify();
}

Result<> Session::get_tensor() {
    const auto request = take<wire::GetTensorRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    auto source = checked_region(request->tensor, request->offset, request->size, buffers_);
    if (!source) {
        return std::unexpected(source.error());
    }
    devices_.synchronize();
    if (source->region.buffer->is_host) {
        return answer_bytes(ConstBytes(source->region.data(), request->size));
    }
    const uint64_t size = request->size;
    scratch_.resize(std::max<size_t>(scratch_.size(), std::min<uint64_t>(size, piece_size)));
    bytes_out_ += sizeof size + size;
    if (auto sent = net::send_all(transport_, {const_bytes(&size, sizeof size)}, stall); !sent) {
        return sent;
    }
    for (uint64_t done = 0; done < size;) {
        const size_t piece = std::min<uint64_t>(size - done, piece_size);
        ggml_backend_tensor_get(&source->tensor, scratch_.data(), request->offset + done, piece);
        if (auto sent = net::send_all(transport_, {ConstBytes(scratch_).first(piece)}, stall); !sent) {
            return sent;
        }
        done += piece;
    }
    return {};
}

Result<> Session::get_tensor_2d() {
    const auto request = take<wire::Tensor2dRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    uint64_t size = 0, last = 0, span = 0;
    if (request->n_copies == 0 || __builtin_mul_overflow(request->size, request->n_copies, &size) ||
        __builtin_mul_overflow(request->stride, request->n_copies - 1, &last) ||
        __builtin_add_overflow(last, request->size, &span)) {
        return fail(Errc::protocol, "{} rows of {} bytes", static_cast<uint64_t>(request->n_copies),
                    static_cast<uint64_t>(request->size));
    }
    auto source = checked_region(request->tensor, request->offset, span, buffers_);
    if (!source) {
        return std::unexpected(source.error());
    }
    if (size > source->tensor_bytes) {
        return fail(Errc::invalid_argument, "rows that overlap");
    }
    devices_.synchronize();
    std::vector<std::byte> packed(size);
    for (uint64_t row = 0; row < request->n_copies && request->size > 0; ++row) {
        ggml_backend_tensor_get(&source->tensor, packed.data() + row * request->size,
                                request->offset + row * request->stride, request->size);
    }
    return answer_bytes(packed);
}

Result<> Session::copy_tensor() {
    const auto request = take<wire::CopyTensorRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    auto src = checked_region(request->src, 0, 0, buffers_);
    auto dst = checked_region(request->dst, 0, 0, buffers_);
    if (!src || !dst) {
        return std::unexpected(!src ? src.error() : dst.error());
    }
    const bool same_layout = src->tensor.type == dst->tensor.type &&
                             std::ranges::equal(src->tensor.ne, dst->tensor.ne) &&
                             std::ranges::equal(src->tensor.nb, dst->tensor.nb);
    if (!same_layout) {
        return fail(Errc::invalid_argument, "source and destination differ in type, shape or strides");
    }
    const auto from = src->region.data(), to = dst->region.data();
    if (src->region.buffer == dst->region.buffer && from != to && from < to + dst->tensor_bytes &&
        to < from + src->tensor_bytes) {
        return fail(Errc::invalid_argument, "source and destination overlap");
    }
    devices_.synchronize();
    ggml_backend_tensor_copy(&src->tensor, &dst->tensor);
    return answer<uint8_t>(1);
}

Result<> Session::memset_tensor() {
    const auto request = take<wire::MemsetTensorRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    auto target = checked_region(request->tensor, request->offset, request->size, buffers_);
    if (!target) {
        return std::unexpected(target.error());
    }
    devices_.synchronize();
    if (request->size > 0) {
        ggml_backend_tensor_memset(&target->tensor, request->value, request->offset, request->size);
    }
    return {};
}

Result<> Session::init_tensor() {
    const auto request = take<wire::Tensor>();
    if (!request) {
        return std::unexpected(request.error());
    }
    auto target = checked_region(*request, 0, 0, buffers_);
    if (!target) {
        return std::unexpected(target.error());
    }
    // The back-end may clear the padding behind the tensor: that must lie in the buffer as well.
    const size_t padded = ggml_backend_buffer_get_alloc_size(target->region.buffer->buffer.get(), &target->tensor);
    if (auto room = buffers_.locate(request->buffer, request->data, padded); !room) {
        return std::unexpected(room.error());
    }
    devices_.synchronize();
    const ggml_status status = ggml_backend_buffer_init_tensor(target->region.buffer->buffer.get(), &target->tensor);
    if (status != GGML_STATUS_SUCCESS) {
        return fail(Errc::unsupported, "the back-end refused the tensor: {}", ggml_status_to_string(status));
    }
    return {};
}

Result<> Session::get_alloc_size() {
    const auto request = take<wire::GetAllocSizeRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = check_device(request->device); !good) {
        return good;
    }
    // Shapes only: no buffer is looked at, so none is believed.
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
    return answer<uint64_t>(ggml_backend_buft_get_alloc_size(devices_.buffer_type(request->device), &*tensor));
}

Result<> Session::compute(uint64_t size) {
    // Memory is taken as the bytes arrive, not as they are promised.
    std::vector<std::byte> payload;
    auto read = in_.read_pieces(size, [&](ConstBytes piece) { payload.insert(payload.end(), piece.begin(), piece.end()); });
    if (!read) {
        return read;
    }
    const auto head = load<wire::GraphComputeRequest>(payload.data());
    if (auto good = check_device(head.device); !good) {
        return good;
    }
    auto graph = build_graph(payload, devices_.device(head.device), buffers_);
    if (!graph) {
        return std::unexpected(graph.error());
    }
    ++graphs_built_;
    const uint64_t uid = head.uid;
    if (uid == 0) {
        devices_.synchronize();
        unkept_ = std::move(*graph);
        return launch(head.device, *unkept_);
    }
    auto & kept = graphs_[head.device];
    const bool is_new = !kept.contains(uid);
    if (!is_new || kept.size() >= wire::max_kept_graphs) {
        devices_.synchronize();
    }
    if (is_new && kept.size() >= wire::max_kept_graphs) {
        kept.clear();  // the client does the same
    }
    return launch(head.device, kept.insert_or_assign(uid, std::move(*graph)).first->second);
}

Result<> Session::recompute() {
    const auto request = take<wire::GraphRecomputeRequest>();
    if (!request) {
        return std::unexpected(request.error());
    }
    if (auto good = check_device(request->device); !good) {
        return good;
    }
    const auto found = graphs_[request->device].find(uint64_t{request->uid});
    if (found == graphs_[request->device].end()) {
        return fail(Errc::not_found, "no graph {} on device {}", static_cast<uint64_t>(request->uid),
                    static_cast<uint32_t>(request->device));
    }
    return launch(request->device, found->second);
}

Result<> Session::launch(uint32_t device, Graph & graph) {
    ++launches_;
    if (ggml_graph_n_nodes(graph.graph) == 0) {
        return {};
    }
    const ggml_status status = devices_.compute(device, graph.graph);
    if (status != GGML_STATUS_SUCCESS) {
        return fail(Errc::unsupported, "{} could not compute the graph: {}",
                    ggml_backend_dev_name(devices_.device(device)), ggml_status_to_string(status));
    }
    return {};
}

}  // namespace caravan::server
