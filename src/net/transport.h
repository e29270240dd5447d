// A reliable, ordered, full-duplex stream of bytes to one peer: what the rest of Caravan sees of a network.
//
// send and receive never block; wait does. Threads: one thread at a time may call send, and one receive; wait and wake
// may be called from any thread at any time. After an error (or Errc::closed) the transport stays broken.
// Ownership: buffers belong to the caller and are not used after the call returns.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::net {

// One call of send or receive uses at most this many parts.
inline constexpr size_t max_parts = 64;

enum class TransportKind : uint8_t { tcp, unix_socket, rdma };

// "tcp", "unix" or "rdma": in logs, statistics and reports.
constexpr std::string_view text_of(TransportKind kind) {
    switch (kind) {
        case TransportKind::tcp: return "tcp";
        case TransportKind::unix_socket: return "unix";
        case TransportKind::rdma: return "rdma";
    }
    return "";
}

struct Interest {
    bool read = false;
    bool write = false;
};

class Transport {
public:
    virtual ~Transport() = default;

    // Sends bytes from the front of the parts, in order. Returns their number; 0: the transport is full for now.
    virtual Result<size_t> send(std::span<const ConstBytes> parts) = 0;

    // The caller keeps these bytes, which it is about to send, valid and unchanged until end_loan(), so that a transport
    // need not copy them. One loan at a time.
    virtual void lend(ConstBytes) {}
    virtual void end_loan() {}

    // Fills the parts, in order. Returns the number of bytes; 0: no data for now. Errc::closed: the peer closed in order.
    virtual Result<size_t> receive(std::span<const MutableBytes> parts) = 0;

    // Returns true when an operation of `interest` may make progress or wake was called, and false at the deadline.
    // Polls for up to `spin` before it sleeps.
    virtual Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) = 0;

    // Makes a wait of another thread, or else the next wait, return. Never blocks.
    virtual void wake() = 0;

    // False while the transport reconnects.
    virtual bool is_connected() const { return true; }

    // How often the transport has replaced its connection by another one, perhaps of another kind.
    virtual uint32_t replacements() const { return 0; }

    // Switches to RDMA in the background, once. Then another thread calls `done`: with null if it has switched, else with the
    // reason. Only transports for which Opened::may_upgrade is true support it.
    virtual void begin_upgrade(std::function<void(const Error * why_not)> done) { (void)done; }
    // Blocks while begin_upgrade() is at work, until the deadline at most.
    virtual void await_upgrade(TimePoint deadline) { (void)deadline; }

    // Another thread calls `done` once if the connection is lost permanently while idle. Call this before the first use.
    // Only transports that monitor idle connections support it.
    virtual void when_lost(std::function<void(const Error &)> done) { (void)done; }

    // Resets the connection, so that the peer sees a failure and not an orderly close. Destroy the transport afterwards.
    virtual void break_off() {}

    virtual TransportKind kind() const = 0;
    // RDMA's queue pairs that the connection uses; 0: it does not use RDMA.
    virtual uint32_t queue_pairs() const { return 0; }
};

// Takes a connected, non-blocking stream socket (TCP or Unix). `patience`: wait fails with Errc::timed_out if the peer's
// machine acknowledges nothing for this long; for callers that can reconnect. 0: the operating system decides, after
// minutes. A busy or stopped peer does not count as silent: its kernel acknowledges. Linux only.
Result<std::unique_ptr<Transport>> make_socket_transport(UniqueFd socket, milliseconds patience = milliseconds(0));

}  // namespace caravan::net
