// Data that passes from other servers to one server through the client.
//
// The source's reply is received directly into a hole in the target's stream. The message with the hole, and everything
// after it, is sent once the hole is filled; the program's thread continues meanwhile.
//
// Threads: guarded by the target stream's lock.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "client/session/stream.h"

namespace caravan::client {

class Connection;

class Relays {
public:
    explicit Relays(Stream & target) : target_(target) {}

    bool empty() const { return relays_.empty(); }

    // `bytes` is the destination of the source's read with this ticket. Appends it to the target as a hole that begins at
    // `begin`, the position of the message's header. The source stays alive until the hole is filled.
    void add(std::shared_ptr<Connection> source, Stream::Ticket ticket, uint64_t begin, std::vector<std::byte> bytes);

    // Fills every hole before `position`. Releases the lock while it waits for a source. Terminates for any pattern of relays,
    // because it waits only for commands that precede the hole in program order. If the source was lost, sets the target's
    // launch failure: launches behind the hole were reported as successful.
    void fill_before(Stream::Lock & lock, uint64_t position);

    // Waits for all sources, which receive into memory of the target. Call before the target is destroyed, without its lock.
    void await_sources();

private:
    struct Relay {
        std::shared_ptr<Connection> source;
        Stream::Ticket ticket;
        uint64_t hole = 0;
        ConstBytes bytes;  // in the hole
    };

    Stream & target_;
    std::deque<Relay> relays_;
};

}  // namespace caravan::client
