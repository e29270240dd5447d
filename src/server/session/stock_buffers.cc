#include "server/session/stock_buffers.h"

#include "base/log.h"
#include "server/graph/lent_memory.h"

namespace caravan::server {
namespace {

std::unexpected<Error> no_buffer(uint64_t buffer) { return fail(Errc::not_found, "no buffer {:#x}", buffer); }

}  // namespace

Result<> StockBuffers::get_device_memory() {
    return context_.serve_on_device<wire::DeviceRequest>([&](const auto & request) {
        const uint32_t device = request.device;
        const bool is_cpu = is_cpu_memory(context_.devices.buffer_type(device));
        const uint64_t available =
            context_.machine != nullptr && is_cpu ? context_.machine->free(context_.buffers.cpu_bytes()) : UINT64_MAX;
        const auto memory = lent_memory(context_.devices.memory(available), device, context_.memory.max_bytes(),
                                        context_.memory.remaining());
        return context_.replies.send(wire::DeviceMemoryReply{memory.free, memory.total});
    });
}

Result<> StockBuffers::claim_machine_memory(uint32_t device, uint64_t size) {
    const bool needs_claim = context_.machine != nullptr && is_cpu_memory(context_.devices.buffer_type(device)) &&
                             size <= max_buffer_size;
    return needs_claim ? context_.machine->claim(context_.buffers.cpu_bytes() + size) : Result<>();
}

Result<> StockBuffers::allocate() {
    return context_.serve_on_device<wire::AllocBufferRequest>([&](const auto & request) {
        const uint32_t device = request.device;
        const uint64_t size = request.size;
        const auto address =
            context_.memory.check_buffer(size)
                .and_then([&] { return claim_machine_memory(device, size); })
                .and_then([&] {
                    return context_.buffers.allocate(context_.devices.buffer_type(device), device, size);
                });
        if (!address) {
            if (context_.machine != nullptr) {
                context_.machine->release(context_.buffers.cpu_bytes());  // the failed claim
            }
            log_warning("ALLOC_BUFFER refused: {}", address.error().text);
            return context_.replies.send(wire::AllocBufferReply{0, 0});
        }
        return context_.replies.send(wire::AllocBufferReply{*address, size});
    });
}

Result<> StockBuffers::get_base() {
    return context_.serve<wire::BufferRequest>([&](const auto & request) -> Result<> {
        const uint64_t buffer = request.buffer;
        if (context_.buffers.find(buffer) == nullptr) {
            return no_buffer(buffer);
        }
        return context_.replies.send(buffer);  // the handle of a buffer is its address
    });
}

Result<> StockBuffers::free() {
    return context_.serve<wire::BufferRequest>([&](const auto & request) -> Result<> {
        const uint64_t buffer = request.buffer;
        if (auto waited = context_.synchronize(); !waited) {
            return waited;
        }
        // Drops only the graphs that use the buffer. A stock server drops all graphs.
        context_.on_free(buffer);
        if (const BufferTable::Buffer * freed = context_.buffers.find(buffer)) {
            context_.stale.clear(buffer, buffer + freed->size);
        }
        const uint64_t before = context_.buffers.cpu_bytes();
        if (!context_.buffers.free(buffer)) {
            return no_buffer(buffer);
        }
        if (context_.machine != nullptr && context_.buffers.cpu_bytes() < before) {
            context_.machine->release(context_.buffers.cpu_bytes());
        }
        return {};
    });
}

Result<> StockBuffers::clear() {
    return context_.serve<wire::BufferClearRequest>([&](const auto & request) -> Result<> {
        const uint64_t address = request.buffer;
        BufferTable::Buffer * buffer = context_.buffers.find(address);
        if (buffer == nullptr) {
            return no_buffer(address);
        }
        if (auto waited = context_.synchronize(buffer->device); !waited) {
            return waited;
        }
        ggml_backend_buffer_clear(buffer->buffer.get(), request.value);
        context_.stale.clear(address, address + buffer->size);
        return {};
    });
}

}  // namespace caravan::server
