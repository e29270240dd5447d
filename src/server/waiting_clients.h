// Connections that have no session: clients that shake hands, ask, or wait for a session. Their number is bounded, and when
// there are too many the address that has most of them loses one. One thread.
#pragma once

#include <list>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "server/front_door.h"
#include "server/session_slots.h"

namespace caravan::server {

struct WaitingClient {
    WaitingClient(UniqueFd socket, bool may_resume);

    // It wants a session that does not exist yet.
    bool wants_new_session() const { return !closing && wants == FrontDoor::Wants::session && client.token() == 0; }

    const std::string address;  // net::peer_address()
    FrontDoor client;
    FrontDoor::Wants wants = FrontDoor::Wants::more;
    TimePoint heard = Clock::now();  // something was received
    bool closing = false;            // to be removed at the end of the round
    bool logged = false;             // session: a line says that it waits
    wire::AdmissionAnswer place{};   // session: as it was told
};

class WaitingClients {
public:
    // At most `capacity` connections; of these three quarters may wait for a session, so that questions find room.
    explicit WaitingClients(size_t capacity);

    // A new connection. `socket` is non-blocking.
    WaitingClient & add(UniqueFd socket, bool may_resume);
    // Drops those that are too many. To be called when all have been read from.
    void bound();
    // Closes the connection now; remove_closing() forgets it.
    void drop(WaitingClient & client);
    void remove_closing();

    std::list<WaitingClient> & all() { return clients_; }
    // Those that want a new session, in the order in which they get one.
    std::vector<WaitingClient *> queue(const SessionSlots & slots);

    // Connections that were dropped because of their number, since this was asked last.
    size_t take_dropped() { return std::exchange(dropped_, 0); }

private:
    void drop_one(bool of_queue, TimePoint now);

    const size_t capacity_;
    size_t dropped_ = 0;
    std::list<WaitingClient> clients_;  // in the order of arrival
};

}  // namespace caravan::server
