// A link through memory that the sessions of two servers of one machine share. It is a byte stream like the link over a network
// that it replaces, which remains: a byte on it wakes the peer up if that sleeps, and its end is the end of the peer.
//
// The peer may write anything into the memory at any time. Each position is read once and checked before it is used; data
// is copied out before anything looks at it. This end's own positions are not read from the memory.
//
// Threads: as net::Transport.
#pragma once

#include <atomic>
#include <optional>

#include "net/transport.h"
#include "platform/shared_memory.h"
#include "wire/shared_memory.h"

namespace caravan::server {

class MemoryLink final : public net::Transport {
public:
    // `memory`: wire::shared_memory_size bytes, aligned to a cache line, zeros but for secret and proof when the first end
    // begins. `opened`: this end opened the link. Both must outlive this.
    MemoryLink(MutableBytes memory, bool opened, net::Transport & link);

    Result<size_t> send(std::span<const ConstBytes> parts) override;
    Result<size_t> receive(std::span<const MutableBytes> parts) override;
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override;
    void wake() override { link_.wake(); }
    void break_off() override { link_.break_off(); }
    net::TransportKind kind() const override { return link_.kind(); }

private:
    using Position = std::atomic_ref<uint64_t>;
    struct Ring {
        std::byte * data;
        uint64_t *written, *read;
    };

    Ring ring(size_t number) const;
    Result<size_t> room();
    Result<size_t> available();
    Result<bool> can_move(net::Interest interest);
    Result<> wake_peer();
    std::unexpected<Error> broken(Error error);

    const MutableBytes memory_;
    net::Transport & link_;
    const Ring out_, in_;
    uint64_t * const sleeps_;
    uint64_t * const peer_sleeps_;
    uint64_t sent_ = 0, received_ = 0;              // positions of this end
    uint64_t peer_received_ = 0, peer_sent_ = 0;    // the peer's, as last read
    std::optional<Error> error_;
};

// With the memory.
struct SharedLink {
    SharedLink(platform::SharedMapping memory, bool opened, net::Transport & network_link)
        : mapping(std::move(memory)), link(mapping.bytes(), opened, network_link), network(network_link) {}

    platform::SharedMapping mapping;
    MemoryLink link;
    net::Transport & network;
};

}  // namespace caravan::server
