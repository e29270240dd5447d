// Connections without a session: clients in their handshake, with a query, or in the queue for a session. Their number is
// bounded: above the limit, the address with the most connections loses one. Not thread-safe.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "server/supervisor/front_door.h"
#include "server/supervisor/session_slots.h"
#include "tunables/supervisor.h"

namespace caravan::server {

struct WaitingClient {
    WaitingClient(UniqueFd socket, bool may_resume);

    // It waits for a new session, not to resume one or for a link.
    bool wants_new_session() const { return !closing && wants == FrontDoor::Wants::session && client.token() == 0; }
    // It resumes a session, or has a link or a lifeline for one.
    bool has_token() const { return wants == FrontDoor::Wants::session && client.token() != 0; }

    // When the server sends it its place in the queue, and logs that it waits: not if a session is just ending.
    TimePoint report_at() const { return last_received + tunable::queue_report_delay; }

    const std::string address;  // net::peer_address()
    FrontDoor client;
    FrontDoor::Wants wants = FrontDoor::Wants::more;
    TimePoint last_received = Clock::now();  // when data was last received
    bool closing = false;            // removed at the end of the round
    bool logged = false;             // session: its wait was logged
    bool token_is_unknown = false;   // at the end of the last round
    wire::AdmissionReply sent_position{};   // session: the last position that was sent to it
    TimePoint sent_position_at = no_deadline;
};

class WaitingClients {
public:
    // At most `capacity` connections. At most three quarters of them may wait for a session; the rest is for queries.
    explicit WaitingClients(size_t capacity);

    // Adds a new connection and takes ownership of `socket`, which must be non-blocking.
    WaitingClient & add(UniqueFd socket, bool may_resume);
    // Drops connections above the limits. Call it after all connections were read from.
    void bound();
    // Closes the connection; remove_closing() erases it from the list.
    void drop(WaitingClient & client);
    void remove_closing();

    std::list<WaitingClient> & all() { return clients_; }
    const std::list<WaitingClient> & all() const { return clients_; }
    // Clients that wait for a new session, in the order in which they get one. Those that are `preferred` precede others of
    // their address.
    std::vector<WaitingClient *> queue(const SessionSlots & slots,
                                       const std::function<bool(const WaitingClient & client)> & preferred = {});

    // The number of connections that bound() has dropped since the previous call.
    size_t take_dropped() { return std::exchange(dropped_, 0); }

private:
    void drop_one(bool of_queue, TimePoint now);

    const size_t capacity_;
    size_t dropped_ = 0;
    std::list<WaitingClient> clients_;  // in the order of arrival
};

}  // namespace caravan::server
