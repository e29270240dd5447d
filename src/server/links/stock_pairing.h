// Connects the two ranks of a stock client's comm (COMM_INIT): rank 0 accepts a connection at a port of its server, rank 1
// opens it, and both send their capabilities. Nothing proves that the peer is the other rank, except that at most one session
// of each server may have a comm at a time (docs/protocol.md).
//
// Used by the session's thread only.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "net/lookup.h"
#include "net/networks.h"
#include "net/socket.h"
#include "net/transport.h"
#include "tunables/links.h"

namespace caravan::server {

class StockPairing {
public:
    // The server's part, which only its supervisor can do.
    struct Port {
        // Reserves the server's comm for this session. Errc::unavailable if the server permits none, or another has it.
        std::function<Result<>()> reserve;
        // Returns a connection that has arrived at `port`, or none until `deadline`.
        std::function<Result<UniqueFd>(uint32_t port, TimePoint deadline)> accept;
        std::function<void()> stop_accepting;
        std::function<void()> release;
    };

    // `networks`: the other rank must be within these. `accept_time`, `connect_time`: limits of accept() and connect().
    StockPairing(Port port, net::Networks networks, net::Lookup lookup = net::addresses_of,
                 milliseconds accept_time = tunable::comm_accept_timeout,
                 milliseconds connect_time = tunable::comm_connect_timeout)
        : port_(std::move(port)),
          networks_(std::move(networks)),
          lookup_(std::move(lookup)),
          accept_time_(accept_time),
          connect_time_(connect_time) {}
    ~StockPairing();
    StockPairing(const StockPairing &) = delete;

    Result<> reserve() { return port_.reserve(); }
    void release() { port_.release(); }

    // Rank 0: waits for rank 1 at `port`.
    Result<std::unique_ptr<net::Transport>> accept(uint32_t port, const std::atomic<bool> & is_cancelled);
    // Rank 1. Every failure takes the same time, so that clients cannot scan ports and names.
    Result<std::unique_ptr<net::Transport>> connect(const std::string & host, uint32_t port,
                                                    const std::atomic<bool> & is_cancelled);
    // Rank 1 takes no part: closes a connection to rank 0, in the background. A stock server would wait for it without limit.
    void turn_down(const std::string & host, uint32_t port);

private:
    Result<std::unique_ptr<net::Transport>> greet(UniqueFd socket, bool is_first, TimePoint deadline) const;
    Result<UniqueFd> reach(const std::string & host, uint32_t port, TimePoint deadline,
                           const std::atomic<bool> & is_cancelled) const;

    const Port port_;
    const net::Networks networks_;
    const net::Lookup lookup_;
    const milliseconds accept_time_, connect_time_;
    std::thread turning_down_;
    std::atomic<bool> is_turning_down_ = false, is_over_ = false;
};

}  // namespace caravan::server
