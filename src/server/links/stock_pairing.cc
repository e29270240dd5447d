#include "server/links/stock_pairing.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "net/endpoint.h"
#include "net/exact_io.h"
#include "wire/stock_comm.h"

namespace caravan::server {
namespace {

bool is_port(uint32_t port) { return port > 0 && port <= 0xffff; }

void sleep_until(TimePoint end, const std::atomic<bool> & is_cancelled) {
    while (!is_cancelled.load(std::memory_order_relaxed) && Clock::now() < end) {
        std::this_thread::sleep_until(std::min(end, Clock::now() + tunable::reduction_cancel_interval));
    }
}

}  // namespace

StockPairing::~StockPairing() {
    is_over_ = true;
    if (turning_down_.joinable()) {
        turning_down_.join();
    }
}

// Offers no RDMA, so that the peer stays on TCP.
Result<std::unique_ptr<net::Transport>> StockPairing::greet(UniqueFd socket, bool is_first, TimePoint deadline) const {
    constexpr wire::CommGreeting own{};
    wire::CommGreeting peer{};
    const auto send = [&] { return net::send_exact(socket.get(), const_bytes(&own, sizeof own), deadline); };
    const auto receive = [&]() -> Result<> {
        auto received = net::receive_exact(socket.get(), mutable_bytes(&peer, sizeof peer), deadline);
        if (received && !wire::is_comm_greeting(peer)) {
            return fail(Errc::protocol, "it is no rank of a comm");
        }
        return received;
    };
    auto done = is_first ? send().and_then(receive) : receive().and_then(send);
    if (!done) {
        return std::unexpected(done.error());
    }
    return net::make_socket_transport(std::move(socket));
}

Result<std::unique_ptr<net::Transport>> StockPairing::accept(uint32_t port, const std::atomic<bool> & is_cancelled) {
    const TimePoint deadline = Clock::now() + accept_time_;
    Error last{Errc::timed_out, formatted("the other rank has not connected to port {}", port)};
    while (Clock::now() < deadline && !is_cancelled.load(std::memory_order_relaxed)) {
        auto socket = port_.accept(port, std::min(deadline, Clock::now() + tunable::reduction_cancel_interval));
        if (!socket) {
            last = std::move(socket.error());
            break;
        }
        if (!*socket) {
            continue;
        }
        const std::string peer = net::peer_name(socket->get());
        const auto endpoint = net::parse_endpoint(peer);
        if (!endpoint || !networks_.contains(endpoint->host)) {
            last = {Errc::invalid_argument, formatted("{} is not within --links ({})", peer, networks_.text())};
            continue;
        }
        auto transport = greet(std::move(*socket), false, std::min(deadline, Clock::now() + tunable::comm_greeting_timeout));
        if (transport) {
            port_.stop_accepting();
            return transport;
        }
        last = {transport.error().code, formatted("{} connected to port {}, but {}", peer, port, transport.error().text)};
    }
    port_.stop_accepting();
    return std::unexpected(last);
}

// A connected socket; rank 0 may not listen yet. Connects to addresses that were checked, not to the name, which could resolve
// to another address the next time.
Result<UniqueFd> StockPairing::reach(const std::string & host, uint32_t port, TimePoint deadline,
                                     const std::atomic<bool> & is_cancelled) const {
    if (host.empty() || !is_port(port)) {
        return fail(Errc::invalid_argument, "it has no address");
    }
    const auto addresses = net::addresses_within({.host = host, .port = static_cast<uint16_t>(port), .path = {}}, deadline,
                                                 lookup_);
    if (!addresses) {
        return std::unexpected(addresses.error());
    }
    Error last{Errc::invalid_argument, formatted("not within --links ({})", networks_.text())};
    for (bool may_answer = true; std::exchange(may_answer, false) && Clock::now() < deadline;) {
        for (const net::Endpoint & address : *addresses) {
            if (!networks_.contains(address.host) || is_cancelled.load(std::memory_order_relaxed)) {
                continue;
            }
            may_answer = true;
            auto socket = net::connect_socket(address, std::min(deadline, Clock::now() + tunable::comm_greeting_timeout));
            if (socket) {
                return socket;
            }
            last = std::move(socket.error());
        }
        if (may_answer) {
            sleep_until(std::min(deadline, Clock::now() + tunable::comm_retry_pause), is_cancelled);
        }
    }
    return std::unexpected(last);
}

Result<std::unique_ptr<net::Transport>> StockPairing::connect(const std::string & host, uint32_t port,
                                                              const std::atomic<bool> & is_cancelled) {
    const TimePoint deadline = Clock::now() + connect_time_;
    Error last{Errc::timed_out, "it does not answer"};
    while (Clock::now() < deadline && !is_cancelled.load(std::memory_order_relaxed)) {
        auto socket = reach(host, port, deadline, is_cancelled);
        if (!socket) {
            last = std::move(socket.error());
            break;
        }
        auto transport = greet(std::move(*socket), true, deadline);
        if (transport) {
            return transport;
        }
        last = std::move(transport.error());
        sleep_until(std::min(deadline, Clock::now() + tunable::comm_retry_pause), is_cancelled);
    }
    sleep_until(deadline, is_cancelled);
    return fail(last.code, "cannot connect to rank 0 at {}:{}: {}", host, port, last.text);
}

void StockPairing::turn_down(const std::string & host, uint32_t port) {
    if (is_turning_down_.exchange(true)) {
        return;
    }
    if (turning_down_.joinable()) {
        turning_down_.join();
    }
    turning_down_ = std::thread([this, host, port] {
        (void)reach(host, port, Clock::now() + connect_time_, is_over_);
        is_turning_down_ = false;
    });
}

}  // namespace caravan::server
