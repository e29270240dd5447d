#include "server/session/stock_dialect.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "server/ops/op_check.h"

namespace caravan::server {
namespace {

using wire::Command;

// Bytes from the begin of the first row to the end of the last. `payload`: the size that the rows must add up to.
Result<uint64_t> rows_span(const wire::Tensor2dRequest & request, std::optional<uint64_t> payload) {
    const uint64_t size = request.size, n_rows = request.n_copies, stride = request.stride;
    uint64_t all = 0, last = 0, span = 0;
    if ((size == 0 || n_rows == 0) && payload.value_or(0) == 0) {
        return 0;
    }
    if (n_rows == 0 || __builtin_mul_overflow(size, n_rows, &all) || (payload && all != *payload) ||
        __builtin_mul_overflow(stride, n_rows - 1, &last) || __builtin_add_overflow(last, size, &span)) {
        return fail(Errc::protocol, "{} rows of {} bytes do not match a payload of {} bytes", n_rows, size,
                    payload.value_or(0));
    }
    return span;
}

}  // namespace

Result<> StockDialect::serve(Command command, uint64_t size) {
    switch (command) {
        case Command::alloc_buffer: return buffers_.allocate();
        case Command::get_alignment: return get_alignment();
        case Command::get_max_size: return get_max_size();
        case Command::get_device_memory: return buffers_.get_device_memory();
        case Command::device_count: return context_.replies.send<uint32_t>(context_.devices.count());
        case Command::buffer_get_base: return buffers_.get_base();
        case Command::free_buffer: return buffers_.free();
        case Command::buffer_clear: return buffers_.clear();
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
        case Command::comm_init: return reductions_.join();
        case Command::comm_allreduce: return reductions_.reduce();
        case Command::comm_free: return reductions_.leave();
        case Command::hello: break;
    }
    return fail(Errc::protocol, "the command is not allowed in a session");
}

Result<> StockDialect::get_alignment() {
    return context_.serve_on_device<wire::DeviceRequest>([&](const auto & request) {
        return context_.replies.send<uint64_t>(context_.devices.alignment(request.device));
    });
}

Result<> StockDialect::get_max_size() {
    return context_.serve_on_device<wire::DeviceRequest>([&](const auto & request) {
        const ggml_backend_buffer_type_t type = context_.devices.buffer_type(request.device);
        return context_.replies.send<uint64_t>(ggml_backend_buft_get_max_size(type));
    });
}

Result<> StockDialect::set_tensor(uint64_t size) {
    return context_.serve<wire::SetTensorRequest>([&](const auto & request) {
        const uint64_t length = size - sizeof request;
        return checked_region(request.tensor, request.offset, length, context_.buffers).and_then([&](CheckedRegion target) {
            return context_.io.write(context_.in, target, length, request.cache != 0);
        });
    });
}

Result<> StockDialect::set_tensor_2d(uint64_t size) {
    return context_.serve<wire::Tensor2dRequest>([&](const auto & request) {
        return rows_span(request, size - sizeof request)
            .and_then([&](uint64_t span) { return checked_region(request.tensor, request.offset, span, context_.buffers); })
            .and_then([&](CheckedRegion target) {
                return context_.io.write_rows(target, request.size, request.n_copies, request.stride);
            });
    });
}

Result<> StockDialect::set_tensor_hash() {
    return context_.serve<wire::SetTensorHashRequest>([&](const auto & request) -> Result<> {
        // The request has no size. Clients load the rest of the tensor from `offset`.
        const auto bytes = checked_bytes(request.tensor);
        const uint64_t offset = request.offset;
        if (!bytes || offset >= *bytes) {
            return context_.replies.send<uint8_t>(0);
        }
        auto target = checked_region(request.tensor, offset, *bytes - offset, context_.buffers);
        const auto found = target ? context_.lookups.find_fnv(*target, *bytes - offset, request.hash) : false;
        return found.and_then([&](bool is_there) { return context_.replies.send<uint8_t>(is_there ? 1 : 0); });
    });
}

Result<> StockDialect::get_tensor() {
    return context_.serve<wire::GetTensorRequest>([&](const auto & request) {
        return checked_region(request.tensor, request.offset, request.size, context_.buffers)
            .and_then([&](CheckedRegion source) { return context_.io.read(source, request.size); });
    });
}

Result<> StockDialect::get_tensor_2d() {
    return context_.serve<wire::Tensor2dRequest>([&](const auto & request) {
        return rows_span(request, std::nullopt)
            .and_then([&](uint64_t span) { return checked_region(request.tensor, request.offset, span, context_.buffers); })
            .and_then([&](CheckedRegion source) -> Result<> {
                if (request.size * request.n_copies > source.tensor_bytes) {
                    return fail(Errc::invalid_argument, "the rows overlap");
                }
                return context_.io.read_rows(source, request.size, request.n_copies, request.stride);
            });
    });
}

Result<> StockDialect::copy_tensor() {
    return context_.serve<wire::CopyTensorRequest>([&](const auto & request) -> Result<> {
        auto from = checked_region(request.src, 0, 0, context_.buffers);
        auto to = checked_region(request.dst, 0, 0, context_.buffers);
        if (!from || !to) {
            return std::unexpected(!from ? from.error() : to.error());
        }
        return context_.io.copy(*from, *to).and_then([&] { return context_.replies.send<uint8_t>(1); });
    });
}

Result<> StockDialect::memset_tensor() {
    return context_.serve<wire::MemsetTensorRequest>([&](const auto & request) {
        return checked_region(request.tensor, request.offset, request.size, context_.buffers)
            .and_then([&](CheckedRegion target) { return context_.io.fill(target, request.size, request.value); });
    });
}

Result<> StockDialect::init_tensor() {
    return context_.serve<wire::Tensor>([&](const auto & request) {
        return checked_region(request, 0, 0, context_.buffers).and_then([&](CheckedRegion target) {
            return context_.io.initialize(target, request);
        });
    });
}

Result<> StockDialect::get_alloc_size() {
    return context_.serve_on_device<wire::GetAllocSizeRequest>([&](const auto & request) -> Result<> {
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
        auto tensor = shape(request.tensor);
        if (!tensor) {
            return std::unexpected(tensor.error());
        }
        std::array<ggml_tensor, wire::max_sources> sources{};
        for (int i = 0; i < wire::max_sources; ++i) {
            const wire::Tensor wired = request.src[i];
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
        const ggml_backend_buffer_type_t type = context_.devices.buffer_type(request.device);
        return context_.replies.send<uint64_t>(ggml_backend_buft_get_alloc_size(type, &*tensor));
    });
}

}  // namespace caravan::server
