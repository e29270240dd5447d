#include "doctor/measure.h"

#include <algorithm>
#include <vector>

#include "doctor/flow.h"

namespace caravan::doctor {
namespace {

using wire::Command;

constexpr size_t piece = 1 << 20;             // bytes of one write or read
constexpr uint64_t most_memory = 64 * piece;  // of the device
constexpr uint32_t warm_up = 20, most_round_trips = 200;
constexpr seconds most_latency_time{1};

Result<> measure_latency(Conversation & peer, Measured & out) {
    std::vector<double> times;
    const TimePoint end = Clock::now() + most_latency_time;
    for (uint32_t i = 0; i < warm_up + most_round_trips && (times.empty() || Clock::now() < end); ++i) {
        const TimePoint start = Clock::now();
        if (auto reply = peer.request<uint64_t>(Command::get_alignment, wire::DeviceRequest{0}); !reply) {
            return std::unexpected(reply.error());
        }
        if (i >= warm_up) {
            times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
        }
    }
    if (auto unbroken = peer.check_connection(); !unbroken) {
        return unbroken;
    }
    std::ranges::sort(times);
    out.round_trips = static_cast<uint32_t>(times.size());
    out.median_us = times[times.size() / 2];
    out.p99_us = times[(times.size() * 99 + 99) / 100 - 1];
    return {};
}

Result<> measure_flow(Conversation & peer, const Region & region, milliseconds time, Measured & out) {
    const auto to_server = rate_to_server(peer, region, piece, time);
    if (!to_server) {
        return std::unexpected(to_server.error());
    }
    out.to_server = *to_server;
    const auto from_server = rate_from_server(peer, region, piece, time);
    if (!from_server) {
        return std::unexpected(from_server.error());
    }
    out.from_server = *from_server;
    return {};
}

Result<> measure_all(Conversation & peer, const Limits & limits, Measured & out) {
    const auto count = peer.device_count();
    if (!count || *count == 0) {
        return count ? Result<>{} : std::unexpected(count.error());
    }
    out.devices = *count;
    const auto memory = peer.request<wire::DeviceMemoryReply>(Command::get_device_memory, wire::DeviceRequest{0});
    if (!memory) {
        return std::unexpected(memory.error());
    }
    out.device_free = memory->free;
    out.device_total = memory->total;
    // Allocated first: that starts a session, so the latency measured is that of the worker process.
    const auto region = peer.allocate(memory->free, most_memory);
    if (peer.failure()) {
        return std::unexpected(region.error());
    }
    Result<> done = measure_latency(peer, out);
    if (!region) {
        return done ? std::unexpected(region.error()) : done;
    }
    done = done ? measure_flow(peer, *region, limits.bandwidth, out) : done;
    return done ? peer.release(*region) : done;
}

}  // namespace

Measured measure(std::unique_ptr<net::Transport> transport, const Limits & limits) {
    Conversation peer(std::move(transport), limits);
    Measured out;
    out.transport = peer.kind();
    out.queue_pairs = peer.queue_pairs();
    if (auto done = measure_all(peer, limits, out); !done) {
        out.failure = done.error().text;
        out.failure_code = done.error().code;
    }
    return out;
}

}  // namespace caravan::doctor
