#include "server/links/memory_link.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "tunables/links.h"

namespace caravan::server {
namespace {

using wire::ring_size;

// Calls `copy` with a position in the ring, a part's bytes and their number, until `limit` bytes were copied.
template <class Part, class Copy>
size_t for_each_piece(std::span<const Part> parts, uint64_t position, size_t limit, Copy copy) {
    size_t done = 0;
    for (const Part & part : parts) {
        for (size_t i = 0; i < part.size() && done < limit;) {
            const size_t at = (position + done) % ring_size;
            const size_t piece = std::min({part.size() - i, limit - done, ring_size - at});
            copy(at, part.data() + i, piece);
            i += piece;
            done += piece;
        }
    }
    return done;
}

}  // namespace

MemoryLink::Ring MemoryLink::ring(size_t number) const {
    const auto at = [&](size_t offset) { return reinterpret_cast<uint64_t *>(memory_.data() + offset); };
    return {memory_.data() + wire::at_ring(number), at(wire::at_written(number)), at(wire::at_read(number))};
}

MemoryLink::MemoryLink(MutableBytes memory, bool opened, net::Transport & link)
    : memory_(memory), link_(link), out_(ring(opened ? 0 : 1)), in_(ring(opened ? 1 : 0)),
      sleeps_(reinterpret_cast<uint64_t *>(memory.data() + wire::at_sleeps(opened ? 0 : 1))),
      peer_sleeps_(reinterpret_cast<uint64_t *>(memory.data() + wire::at_sleeps(opened ? 1 : 0))) {}

std::unexpected<Error> MemoryLink::broken(Error error) {
    error_ = std::move(error);
    return std::unexpected(*error_);
}

// Bytes that this end may send now.
Result<size_t> MemoryLink::room() {
    const uint64_t read = Position(*out_.read).load();
    if (read < peer_received_ || read > sent_) {
        return broken({Errc::protocol, "the peer wrote an impossible position into the shared memory"});
    }
    peer_received_ = read;
    return ring_size - static_cast<size_t>(sent_ - read);
}

// Bytes that have arrived.
Result<size_t> MemoryLink::available() {
    const uint64_t written = Position(*in_.written).load();
    if (written < peer_sent_ || written - received_ > ring_size) {
        return broken({Errc::protocol, "the peer wrote an impossible position into the shared memory"});
    }
    peer_sent_ = written;
    return static_cast<size_t>(written - received_);
}

Result<size_t> MemoryLink::send(std::span<const ConstBytes> parts) {
    if (error_) {
        return std::unexpected(*error_);
    }
    const auto room = this->room();
    if (!room) {
        return room;
    }
    const size_t sent = for_each_piece(parts, sent_, *room, [&](size_t at, const std::byte * from, size_t size) {
        std::memcpy(out_.data + at, from, size);
    });
    if (sent == 0) {
        return 0;
    }
    sent_ += sent;
    Position(*out_.written).store(sent_);
    return wake_peer().transform([&] { return sent; });
}

Result<size_t> MemoryLink::receive(std::span<const MutableBytes> parts) {
    if (error_) {
        return std::unexpected(*error_);
    }
    const auto available = this->available();
    if (!available) {
        return available;
    }
    const size_t got = for_each_piece(parts, received_, *available, [&](size_t at, std::byte * to, size_t size) {
        std::memcpy(to, in_.data + at, size);
    });
    if (got == 0) {
        return 0;
    }
    received_ += got;
    Position(*in_.read).store(received_);
    return wake_peer().transform([&] { return got; });
}

// After a change of a position. In the one order of all these accesses, either the peer's look at the position, after it has
// set its flag, comes later than the change, or this load sees the flag.
Result<> MemoryLink::wake_peer() {
    if (Position(*peer_sleeps_).load() == 0) {
        return {};
    }
    Position(*peer_sleeps_).store(0);
    const std::byte bell{};
    const std::array parts{const_bytes(&bell, 1)};
    // If the link takes no byte, there are many that the peer has not received: it wakes up anyway.
    const auto sent = link_.send(parts);
    return sent ? Result<>() : broken(sent.error());
}

Result<bool> MemoryLink::can_move(net::Interest interest) {
    const auto in = interest.read ? available() : Result<size_t>(0);
    if (!in || *in > 0 || !interest.write) {
        return in.transform([](size_t bytes) { return bytes > 0; });
    }
    return room().transform([](size_t bytes) { return bytes > 0; });
}

Result<bool> MemoryLink::wait(net::Interest interest, TimePoint deadline, microseconds spin) {
    if (error_) {
        return std::unexpected(*error_);
    }
    const TimePoint spin_end = std::min(deadline, Clock::now() + spin);
    do {
        for (int i = 0; i < tunable::memory_looks; ++i) {
            const auto can = can_move(interest);
            if (!can || *can) {
                return can;
            }
        }
        std::this_thread::yield();
    } while (Clock::now() < spin_end);
    Position(*sleeps_).store(1);
    auto can = can_move(interest);
    if (can && !*can) {
        auto ready = link_.wait({.read = true}, deadline, microseconds(0));
        std::array<std::byte, 64> bells;
        const std::array parts{MutableBytes(bells)};
        auto rung = ready ? link_.receive(parts) : Result<size_t>(std::unexpected(ready.error()));
        for (int more = 0; rung && *rung == bells.size() && more < tunable::most_bells; ++more) {
            rung = link_.receive(parts);
        }
        can = can_move(interest);  // what the peer sent before its end still counts
        if (can && !*can && !rung) {
            can = broken(rung.error());
        } else if (can && !*can) {
            can = ready;
        }
    }
    Position(*sleeps_).store(0);
    return can;
}

}  // namespace caravan::server
