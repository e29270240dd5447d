#include "client/session/reply_check.h"

#include <algorithm>
#include <bit>

namespace caravan::client {
namespace {

// Back-ends round a buffer's size up.
constexpr uint64_t max_round_up = 64 << 20;
// Tolerance for the drift of two clocks during a session and for the error of the estimated offset.
constexpr uint64_t max_drift_ns = 60'000'000'000;

}  // namespace

Result<> check_device_count(uint32_t count) {
    if (count > max_devices) {
        return fail(Errc::protocol, "the server reported {} devices", count);
    }
    return {};
}

Result<> check_alignment(uint64_t alignment) {
    if (!std::has_single_bit(alignment) || alignment > max_alignment) {
        return fail(Errc::protocol, "the server reported an alignment of {} bytes", alignment);
    }
    return {};
}

Result<> check_max_size(uint64_t bytes) {
    if (bytes == 0) {
        return fail(Errc::protocol, "the server reported a maximum buffer size of 0 bytes");
    }
    return {};
}

Result<> check_memory(wire::DeviceMemoryReply memory) {
    if (memory.total > max_device_memory) {
        return fail(Errc::protocol, "the server reported a device memory of {} bytes", uint64_t{memory.total});
    }
    return {};
}

Result<> check_alloc_size(uint64_t bytes) {
    if (bytes > max_tensor_size) {
        return fail(Errc::protocol, "the server reported a tensor size of {} bytes", bytes);
    }
    return {};
}

Result<> check_buffer(const wire::AllocBufferReply & reply, uint64_t base, uint64_t size, uint64_t alignment) {
    if (reply.size < size || reply.size - size > std::max(size, max_round_up)) {
        return fail(Errc::protocol, "the server allocated {} bytes instead of {}", uint64_t{reply.size}, size);
    }
    if (base == 0 || base % alignment != 0 || base + reply.size < base) {
        return fail(Errc::protocol, "the server reported address {2:#x} for a buffer of {0} bytes, aligned to {1}",
                    uint64_t{reply.size}, alignment, base);
    }
    return {};
}

Result<> check_flag(uint8_t flag) {
    if (flag > 1) {
        return fail(Errc::protocol, "the server replied {} where 0 or 1 was expected", flag);
    }
    return {};
}

Result<> check_algorithm(const wire::AlgorithmReply & reply) {
    if (reply.algorithm >= wire::n_algorithms || reply.sharing >= wire::max_ranks) {
        return fail(Errc::protocol, "the server reported algorithm {}, and {} ranks that share memory", reply.algorithm,
                    reply.sharing);
    }
    return {};
}

Result<> check_spans(uint32_t count, std::span<const wire::Span> spans, uint64_t opened, uint64_t age) {
    if (count > spans.size()) {
        return fail(Errc::protocol, "the server reported {} spans in a reply that holds {}", count, spans.size());
    }
    for (const wire::Span & span : spans.first(count)) {
        // Differences modulo 2^64, because a clock may start at any value.
        const uint64_t begin = span.begin - opened + max_drift_ns;
        const uint64_t duration = span.end - span.begin;
        const uint64_t limit = age + 2 * max_drift_ns;
        if (begin > limit || duration > limit) {
            return fail(Errc::protocol, "the server reported a span from {} to {} ns, outside the session",
                        uint64_t{span.begin}, uint64_t{span.end});
        }
    }
    return {};
}

}  // namespace caravan::client
