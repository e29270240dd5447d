#include "doctor/flow.h"

#include <algorithm>
#include <vector>

namespace caravan::doctor {
namespace {

constexpr size_t bytes_under_way = 4 << 20;
constexpr size_t least_under_way = 2, most_under_way = 64;  // reads

double seconds_since(TimePoint start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Of the number-th message.
uint64_t place_of(uint64_t number, size_t size, const Region & region) {
    return number % (region.buffer.size / size) * size;
}

}  // namespace

Result<double> rate_to_server(Conversation & peer, const Region & region, size_t size, milliseconds time) {
    const std::vector<std::byte> data(size);
    const TimePoint start = Clock::now();
    uint64_t sent = 0;
    do {
        if (auto done = peer.write(region, place_of(sent++, size, region), data); !done) {
            return std::unexpected(done.error());
        }
    } while (Clock::now() < start + time);
    // Answered after all of it has been taken.
    if (auto answer = peer.ask<uint64_t>(wire::Command::get_alignment, wire::DeviceRequest{0}); !answer) {
        return std::unexpected(answer.error());
    }
    return static_cast<double>(sent * size) / seconds_since(start);
}

Result<double> rate_from_server(Conversation & peer, const Region & region, size_t size, milliseconds time) {
    const size_t under_way = std::clamp(bytes_under_way / size, least_under_way, most_under_way);
    std::vector<std::byte> data(under_way * size);  // not needed after a failure: it ends what is awaited
    std::vector<client::Stream::Ticket> tickets(under_way);
    const TimePoint start = Clock::now();
    uint64_t asked = 0, read = 0;
    Result<> outcome;
    do {
        // One, and once that has come as many as fit into the time: a slow network must not be asked for too much.
        while (asked == 0 || (read > 0 && asked - read < under_way && Clock::now() < start + time)) {
            const size_t slot = asked % under_way;
            const MutableBytes dest = MutableBytes(data).subspan(slot * size, size);
            tickets[slot] = peer.read(region, place_of(asked++, size, region), dest);
        }
        if (asked == read) {
            return static_cast<double>(read * size) / seconds_since(start);
        }
        outcome = peer.await(tickets[read++ % under_way]);
    } while (outcome);
    return std::unexpected(outcome.error());
}

}  // namespace caravan::doctor
