#include "server/session/stock_reductions.h"

#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/printable.h"
#include "server/session/session_context.h"

namespace caravan::server {

Result<> StockReductions::join() {
    return context_.serve_on_device<wire::CommInitRequest>([&](const auto & request) {
        const auto joined = join(request);
        if (!joined) {
            log_info("declined to add up tensors with another server (COMM_INIT): {}", joined.error().text);
        }
        return context_.replies.send<uint8_t>(joined ? 1 : 0);
    });
}

Result<> StockReductions::join(const wire::CommInitRequest & request) {
    const uint32_t device = request.device, rank = request.rank, port = request.port;
    if (request.world != wire::comm_ranks || rank >= wire::comm_ranks) {
        return fail(Errc::invalid_argument, "rank {} of {}", rank, static_cast<uint32_t>(request.world));
    }
    const std::string host = printable(std::string_view(request.host, ::strnlen(request.host, sizeof request.host)));
    auto reserved = context_.pairing == nullptr ? Result<>(fail(Errc::unavailable, "this server offers none"))
                    : pairs_.contains(device)   ? Result<>(fail(Errc::unavailable, "device {} has a comm already", device))
                                                : context_.pairing->reserve();
    if (!reserved) {
        if (rank == 1 && context_.pairing != nullptr) {
            context_.pairing->turn_down(host, port);
        }
        return reserved;
    }
    const std::atomic<bool> & is_cancelled = context_.devices.is_aborted();
    auto link = rank == 0 ? context_.pairing->accept(port, is_cancelled) : context_.pairing->connect(host, port, is_cancelled);
    if (!link) {
        if (pairs_.empty()) {
            context_.pairing->release();
        }
        return std::unexpected(link.error());
    }
    std::vector<net::Transport *> links(wire::comm_ranks);
    links[1 - rank] = link->get();
    ReductionGroup ranks(rank, links, tunable::comm_patience, Algorithm::direct, milliseconds(0), Framing::bare);
    ranks.interrupt_by([this](TimePoint since) { return context_.in.check_silence(since); });
    pairs_.emplace(device, Pair{.link = std::move(*link), .ranks = std::move(ranks)});
    log_info("adds up tensors of device {} with {}, as rank {}: a stock client has connected the two (COMM_INIT)", device,
             rank == 0 ? std::string("another server") : formatted("the server at {}", host), rank);
    return {};
}

Result<> StockReductions::reduce() {
    return context_.serve_on_device<wire::CommReduceRequest>([&](const auto & request) -> Result<> {
        const auto pair = pairs_.find(request.device);
        if (pair == pairs_.end()) {
            return fail(Errc::not_found, "device {} has no comm", static_cast<uint32_t>(request.device));
        }
        return add_up(pair->second, request.tensor);
    });
}

Result<> StockReductions::add_up(Pair & pair, const wire::Tensor & tensor) {
    auto region = checked_region(tensor, 0, 0, context_.buffers);
    if (!region) {
        return std::unexpected(region.error());
    }
    if (region->tensor.type != GGML_TYPE_F32 || !ggml_is_contiguous(&region->tensor)) {
        return fail(Errc::invalid_argument, "the tensor must be a contiguous f32 tensor");
    }
    const uint64_t bytes = region->tensor_bytes, elements = bytes / sizeof(float);
    if (bytes == 0) {
        return {};
    }
    const auto precision = elements < wire::comm_rounded_elements ? wire::Precision::f32 : wire::Precision::bf16;
    if (const uint64_t needed = pair.ranks.memory_for(bytes, precision); needed > pair.claimed) {
        pair.claim = {};
        auto claim = context_.memory.claim_host(needed, "to add up tensors with another server");
        if (!claim) {
            return std::unexpected(claim.error());
        }
        pair.claim = std::move(*claim);
        pair.claimed = needed;
    }
    const bool is_host = region->region.buffer->is_host;
    const auto copy = context_.memory.claim_host(is_host ? 0 : bytes, "to add up tensors with another server");
    if (!copy) {
        return std::unexpected(copy.error());
    }
    std::vector<float> copied(is_host ? 0 : elements);
    const MutableBytes into = std::as_writable_bytes(std::span(copied));
    if (auto waited = context_.synchronize_and_read(region->device(), region->tensor, 0, into); !waited) {
        return waited;
    }
    const std::span<float> values = is_host ? std::span(reinterpret_cast<float *>(region->region.data()), elements) : copied;
    if (auto reduced = pair.ranks.reduce(values, true, precision, context_.devices.is_aborted()); !reduced) {
        return reduced;
    }
    if (!is_host) {
        ggml_backend_tensor_set(&region->tensor, copied.data(), 0, bytes);
    }
    context_.clear_stale(*region, 0, bytes);
    return {};
}

Result<> StockReductions::leave() {
    return context_.serve_on_device<wire::DeviceRequest>([&](const auto & request) -> Result<> {
        if (pairs_.erase(request.device) == 0) {
            return fail(Errc::not_found, "device {} has no comm", static_cast<uint32_t>(request.device));
        }
        if (pairs_.empty()) {
            context_.pairing->release();
        }
        return {};
    });
}

}  // namespace caravan::server
