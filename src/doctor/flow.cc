#include "doctor/flow.h"

#include <algorithm>
#include <vector>

namespace caravan::doctor {
namespace {

constexpr size_t bytes_in_flight = 4 << 20;
constexpr size_t min_in_flight = 2, max_in_flight = 64;  // reads

double seconds_since(TimePoint start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The offset of the number-th message in the region.
uint64_t offset_of(uint64_t number, size_t size, const Region & region) {
    return number % (region.buffer.size / size) * size;
}

}  // namespace

Result<double> rate_to_server(Conversation & peer, const Region & region, size_t size, milliseconds time) {
    const std::vector<std::byte> data(size);
    const TimePoint start = Clock::now();
    uint64_t sent = 0;
    do {
        if (auto done = peer.write(region, offset_of(sent++, size, region), data); !done) {
            return std::unexpected(done.error());
        }
    } while (Clock::now() < start + time);
    // The reply comes after the server has received all of it.
    if (auto reply = peer.request<uint64_t>(wire::Command::get_alignment, wire::DeviceRequest{0}); !reply) {
        return std::unexpected(reply.error());
    }
    const double rate = static_cast<double>(sent * size) / seconds_since(start);
    return peer.check_connection().transform([&] { return rate; });
}

Result<double> rate_from_server(Conversation & peer, const Region & region, size_t size, milliseconds time) {
    const size_t in_flight = std::clamp(bytes_in_flight / size, min_in_flight, max_in_flight);
    std::vector<std::byte> data(in_flight * size);  // unused after a failure, which ends all waits
    std::vector<client::Stream::Ticket> tickets(in_flight);
    const TimePoint start = Clock::now();
    uint64_t requested = 0, read = 0;
    Result<> outcome;
    do {
        // One at first, then as many as fit into the time: too many requests would take too long on a slow network.
        while (requested == 0 || (read > 0 && requested - read < in_flight && Clock::now() < start + time)) {
            const size_t slot = requested % in_flight;
            const MutableBytes dest = MutableBytes(data).subspan(slot * size, size);
            tickets[slot] = peer.read(region, offset_of(requested++, size, region), dest);
        }
        if (requested == read) {
            const double rate = static_cast<double>(read * size) / seconds_since(start);
            return peer.check_connection().transform([&] { return rate; });
        }
        outcome = peer.await(tickets[read++ % in_flight]);
    } while (outcome);
    return std::unexpected(outcome.error());
}

}  // namespace caravan::doctor
