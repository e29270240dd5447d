#include "server/supervisor/waiting_clients.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "net/socket.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

FrontDoor make_door(UniqueFd socket, bool may_resume) {
    std::string peer = net::peer_name(socket.get());
    return {std::move(socket), std::move(peer), may_resume};
}

// The order of dropping among clients of one address, highest first. The HELLO of a new connection may still be in flight.
int drop_rank(const WaitingClient & client, TimePoint now) {
    if (client.wants_new_session()) {
        const FrontDoor & door = client.client;
        const bool is_silent = door.awaits_confirmation() && now - client.sent_position_at > tunable::first_data_timeout;
        return is_silent ? 3 : door.can_confirm() ? 0 : 1;
    }
    if (client.wants != FrontDoor::Wants::more) {
        return 1;
    }
    const bool is_idle = now - client.last_received > tunable::first_data_timeout;
    return client.client.is_greeted() ? (is_idle ? 3 : 1) : (is_idle ? 4 : 2);
}

}  // namespace

WaitingClient::WaitingClient(UniqueFd socket, bool may_resume)
    : address(net::peer_address(socket.get())), client(make_door(std::move(socket), may_resume)) {}

WaitingClients::WaitingClients(size_t capacity) : capacity_(capacity) {}

WaitingClient & WaitingClients::add(UniqueFd socket, bool may_resume) {
    return clients_.emplace_back(std::move(socket), may_resume);
}

void WaitingClients::bound() {
    const TimePoint now = Clock::now();
    auto queue = std::ranges::count_if(clients_, &WaitingClient::wants_new_session);
    for (const auto most = static_cast<ptrdiff_t>(capacity_ - capacity_ / 4); queue > most; --queue) {
        drop_one(true, now);
    }
    auto open = std::ranges::count(clients_, false, &WaitingClient::closing);
    for (; open > static_cast<ptrdiff_t>(capacity_); --open) {
        drop_one(false, now);
    }
}

void WaitingClients::drop(WaitingClient & client) {
    client.closing = true;
    client.client.release();  // closes the socket
}

// Drops a client of the address that has the most.
void WaitingClients::drop_one(bool of_queue, TimePoint now) {
    std::unordered_map<std::string, size_t> by_address;
    for (const WaitingClient & client : clients_) {
        by_address[client.address] += !client.closing && (!of_queue || client.wants_new_session()) ? 1 : 0;
    }
    const auto worth = [&](const WaitingClient & client) {
        // Ties: the longest silent client; in the queue, the newest one.
        const auto last_received = client.last_received.time_since_epoch();
        return std::tuple(by_address[client.address], drop_rank(client, now),
                          client.wants_new_session() ? last_received : -last_received);
    };
    WaitingClient * victim = nullptr;
    for (WaitingClient & client : clients_) {
        if (!client.closing && (!of_queue || client.wants_new_session()) &&
            (victim == nullptr || worth(client) > worth(*victim))) {
            victim = &client;
        }
    }
    if (victim != nullptr) {
        drop(*victim);
        ++dropped_;
    }
}

void WaitingClients::remove_closing() {
    clients_.remove_if([](const WaitingClient & client) { return client.closing; });
}

std::vector<WaitingClient *> WaitingClients::queue(const SessionSlots & slots,
                                                   const std::function<bool(const WaitingClient & client)> & preferred) {
    std::vector<WaitingClient *> waiting;
    std::vector<std::string> addresses;
    for (WaitingClient & client : clients_) {
        if (client.wants_new_session()) {
            waiting.push_back(&client);
        }
    }
    if (preferred) {
        std::ranges::stable_partition(waiting, [&](const WaitingClient * client) { return preferred(*client); });
    }
    for (const WaitingClient * client : waiting) {
        addresses.push_back(client->address);
    }
    std::vector<WaitingClient *> out;
    for (const size_t i : slots.order(addresses)) {
        out.push_back(waiting[i]);
    }
    return out;
}

}  // namespace caravan::server
